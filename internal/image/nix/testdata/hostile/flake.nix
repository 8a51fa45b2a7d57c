# Flakes that do harm, one for each profile. The test adds the folder tools with a static
# busybox.
{
  inputs = { };
  outputs = { self }:
    let
      run = script: builtins.derivation {
        name = "hostile";
        system = "x86_64-linux";
        builder = "${./tools}/busybox";
        args = [ "sh" "-c" script ];
        busybox = "${./tools}/busybox";
      };
      fetch = script: builtins.derivation {
        name = "fetched";
        system = "x86_64-linux";
        builder = "${./tools}/busybox";
        args = [ "sh" "-c" script ];
        busybox = "${./tools}/busybox";
        outputHashMode = "flat";
        outputHashAlgo = "sha256";
        outputHash = "0000000000000000000000000000000000000000000000000000";
      };
      numbers = builtins.genList (n: n) 30000;
      each = f: from: builtins.foldl' (sum: n: f sum) from numbers;
      count = each (each (each (each (n: n + 1)))) 0;
      grow = list: if builtins.length list < 0 then list else grow (list ++ list ++ [ (builtins.length list) ]);
      line = builtins.concatStringsSep "" (builtins.genList (x: "0123456789") 1000);
      noise = builtins.foldl' (sum: n: builtins.trace "noise ${toString n} ${line}" (sum + n)) 0 numbers;
    in
    {
      packages.x86_64-linux = {
        tenant-hang-evaluation = builtins.seq count (run "exit 1");
        tenant-memory-evaluation = builtins.seq (grow [ 1 2 3 4 5 6 7 8 ]) (run "exit 1");
        tenant-noise-evaluation = builtins.seq noise (run "exit 1");
        tenant-read-evaluation = run (builtins.readFile "/etc/shadow");
        tenant-read-environment = run (if builtins.getEnv "HOME" == "" then "echo evaluation sees nothing; exit 1" else "exit 0");
        tenant-hang-build = run "while :; do :; done";
        tenant-silent-build = run "while :; do $busybox sleep 1; done";
        tenant-noise-build = run "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done";
        tenant-memory-build = run "$busybox dd if=/dev/zero of=/dev/null bs=3000M count=9; x=0123456789; while :; do x=$x$x; done";
        tenant-disk-build = run "$busybox dd if=/dev/zero of=$out bs=1M";
        tenant-sparse-build = run "$busybox truncate -s 8G $out";
        tenant-many-build = run "$busybox mkdir $out; n=0; while : > $out/$n; do n=$((n + 1)); done; exit 1";
        tenant-forks-build = run "f() { f & f & wait; }; f; while :; do $busybox sleep 1000 & done";
        tenant-orphans-build = run "($busybox setsid $busybox sleep 1000 &) ; exit 1";
        tenant-read-build = run "for f in /etc/shadow /flake/flake.nix /usr/bin/nix /etc/nix/nix.conf /work /root; do if [ -e $f ]; then echo \"sees $f\"; exit 0; fi; done; echo build sees nothing; exit 1";
        tenant-network-build = run "$busybox wget -T 5 -O $out http://127.0.0.1:3128/ || { echo build has no network; exit 1; }";
        tenant-network-fetch = fetch "$busybox nc -w 5 127.0.0.1 1 < /dev/null && exit 0; echo fetch has no network; exit 1";
        tenant-private-fetch = fetch "printf 'CONNECT 169.254.169.254:443 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | $busybox nc 127.0.0.1 3128; exit 1";
        tenant-pipe-output = run "$busybox mkdir $out; $busybox mkfifo $out/image.json";
        tenant-link-output = run "$busybox mkdir $out; $busybox ln -s /etc/nix/nix.conf $out/image.json";
        tenant-file-output = run "echo file > $out";
      };
    };
}
