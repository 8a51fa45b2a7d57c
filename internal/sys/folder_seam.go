package sys

import (
	"io/fs"
	"path/filepath"
	"sync/atomic"
)

// FolderOp is something that is done in a Folder.
type FolderOp string

// The operations of a Folder that SeamFolders sees. What is done on an open file is none of
// them.
const (
	FolderOpen   FolderOp = "open folder"
	FolderMake   FolderOp = "make folder"
	FolderList   FolderOp = "list"
	FileLook     FolderOp = "stat"
	FileOpen     FolderOp = "open"
	FileCreate   FolderOp = "create"
	FileRename   FolderOp = "rename"
	FileRemove   FolderOp = "remove"
	FolderSync   FolderOp = "sync"
	FolderListen FolderOp = "listen"
)

var folderSeam atomic.Pointer[func(FolderOp, string) error]

// SeamFolders has fn called before each operation in any Folder of this process, with the
// path that it is about; the operation fails with fn's error. fn may be called from many
// goroutines, and may use no Folder. It is for tests that fail exactly one operation; nil ends it.
func SeamFolders(fn func(op FolderOp, path string) error) {
	if fn == nil {
		folderSeam.Store(nil)
		return
	}
	folderSeam.Store(&fn)
}

// seam is the seam's error for the operation, as the system's would be.
func seam(op FolderOp, path string) error {
	fn := folderSeam.Load()
	if fn == nil {
		return nil
	}
	if err := (*fn)(op, path); err != nil {
		return &fs.PathError{Op: string(op), Path: path, Err: err}
	}
	return nil
}

// seam is that of the operation on a name in the folder.
func (d *Folder) seam(op FolderOp, name string) error {
	if folderSeam.Load() == nil {
		return nil
	}
	return seam(op, filepath.Join(d.path, name))
}
