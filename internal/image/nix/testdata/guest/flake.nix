# A guest without nixpkgs: files on top of builtin:minimal. The test adds the folder tools
# with a static busybox, which is all that the build needs.
{
  description = "a page that is served";

  outputs = { self }:
    let
      guest = role: profile: builtins.derivation {
        name = "guest-${role}-${profile}";
        system = "x86_64-linux";
        builder = "${./tools}/busybox";
        args = [ "sh" "-eu" ./build.sh ];
        busybox = "${./tools}/busybox";
        page = ./page;
        service = ./web.json;
        inherit role profile;
      };
    in
    {
      packages.x86_64-linux = {
        tenant-worker-minimal = guest "worker" "minimal";
        tenant-worker-python = guest "worker" "python";
        tenant-gateway-minimal = guest "gateway" "minimal";
        # What is built of a flake without mvm-profiles.toml.
        tenant-minimal = guest "any" "minimal";
        tenant-python = guest "any" "python";
      };
    };
}
