package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"

	"mvm"
	"mvm/internal/stricttoml"
)

// ReadDeployment reads a deployment manifest and the secret files that it names.
// The manifest "-" comes from Stdin.
func ReadDeployment(path string, opts Options) (d mvm.Deployment, from Source, err error) {
	if path == "-" && opts.Stdin != nil {
		return readPiped(opts)
	}
	data, err := readFile(path)
	if err != nil {
		return mvm.Deployment{}, Source{Files: []string{path}}, err
	}
	s := &secretFiles{dir: folderOf(path), dirs: opts.SecretDirs}
	d, err = ParseDeployment(path, data, s.ReadSecret)
	if err == nil {
		d, err = resolveImages(d, folderOf(path), opts)
	}
	return d, Source{Files: append([]string{path}, s.read...), Digest: digestOf(data)}, err
}

// Source says what a deployment was read from.
type Source struct {
	// Files are all the files that were read, the manifest first, so that they can be
	// watched; they are known after an error too, as far as it came. None for stdin.
	Files []string
	// Digest is that of the manifest's bytes: "sha256:" and 64 hex digits.
	Digest string
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// readPiped reads a deployment manifest from stdin. It has no folder, so the secret files
// that it names are below SecretDirs.
func readPiped(opts Options) (mvm.Deployment, Source, error) {
	data, err := readBounded(opts.Stdin, MaxFileBytes)
	if err != nil {
		return mvm.Deployment{}, Source{}, mvm.Errorf(mvm.KindInvalid, "read stdin: %w", err)
	}
	d, err := ParseDeployment("stdin", data, (&secretFiles{dirs: opts.SecretDirs}).ReadSecret)
	if err == nil {
		d, err = resolveImages(d, "", opts)
	}
	return d, Source{Digest: digestOf(data)}, err
}

// ParseDeployment parses a deployment manifest. file is its name in errors.
func ParseDeployment(file string, data []byte, read ReadSecret) (mvm.Deployment, error) {
	var d mvm.Deployment
	doc, root, err := stricttoml.Open(file, data)
	if err != nil {
		return d, err
	}
	if root != nil {
		if t, ok := root.Need("tenant"); ok {
			d.Tenant = readTenant(t.Table())
		}
		pools := root.Tables("pools", maxPools)
		d.Secrets = readSecrets(root, read)
		for _, t := range pools {
			d.Pools = append(d.Pools, readPool(t))
		}
		checkPools(pools, d)
		root.Done()
	}
	if len(doc.Problems) == 0 {
		if err := d.Validate(); err != nil { // what no key alone shows
			doc.Problems = append(doc.Problems, &stricttoml.Problem{File: file, Text: err.Error()})
		}
	}
	if err := doc.Problems.Err(); err != nil {
		return mvm.Deployment{}, err
	}
	return d, nil
}

// maxPools bounds the pools of one manifest; the quota bounds them further.
const maxPools = 256

const maxPort = 65535

func validName(what string) func(string) error {
	return func(s string) error { return mvm.ValidateName(what, s) }
}

func readTenant(t *stricttoml.Table) mvm.TenantSpec {
	var s mvm.TenantSpec
	if t == nil {
		return s
	}
	t.NeedStr("id", &s.ID, validName("tenant"))
	var netID int
	if t.Integer("net_id", &netID, 0, mvm.MaxNetID) {
		s.NetID = &netID
	}
	s.Subnet = readSubnet(t, "subnet")
	t.Boolean("pinned", &s.Pinned)
	s.HostServices = readPorts(t, "host_services")
	s.Quota = readQuota(t.Sub("quota"))
	if sub := t.Sub("ceilings"); sub != nil {
		s.Ceilings = new(mvm.Limits)
		readLimits(sub, s.Ceilings)
	}
	t.Done()
	return s
}

func readSubnet(t *stricttoml.Table, key string) netip.Prefix {
	i, ok := t.Get(key)
	if !ok {
		return netip.Prefix{}
	}
	s, ok := i.Str()
	if !ok {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		i.Problem("%q is not a subnet such as 10.240.5.0/24", stricttoml.Clip(s))
		return netip.Prefix{}
	}
	i.Check(mvm.ValidateSubnet(p))
	return p
}

// maxHostServices bounds the ports of the host that a tenant may reach.
const maxHostServices = 64

func readPorts(t *stricttoml.Table, key string) []int {
	list, _ := t.Items(key, maxHostServices)
	var out []int
	seen := map[int]bool{}
	for _, i := range list {
		var n int
		if !i.IntInto(&n, 1, maxPort) {
			continue
		}
		if seen[n] {
			i.Problem("port %d is given twice", n)
		}
		seen[n] = true
		out = append(out, n)
	}
	return out
}

// readQuota reads a table of limits over the defaults; nil without the table.
func readQuota(t *stricttoml.Table) *mvm.Quota {
	if t == nil {
		return nil
	}
	const most = 1 << 30
	q := mvm.DefaultQuota()
	t.Integer("max_vcpus", &q.MaxVCPUs, 1, most)
	t.Integer("max_mem_mib", &q.MaxMemMiB, 1, most)
	t.Integer("max_running", &q.MaxRunning, 1, most)
	t.Integer("max_warm", &q.MaxWarm, 0, most)
	t.Integer("max_pools", &q.MaxPools, 1, most)
	t.Integer("max_instances_per_pool", &q.MaxInstancesPerPool, 1, most)
	t.Integer("max_disk_gib", &q.MaxDiskGiB, 1, most)
	t.Done()
	return &q
}
