package boot

// Added is a file of mvm's that a builder adds to a root filesystem. It belongs to root.
type Added struct {
	Content    []byte
	Executable bool
}
