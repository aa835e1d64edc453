package main

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Editors replace a file by renaming another to its name, and Kubernetes changes what a ConfigMap's symlink ..data points to:
// whoever watches the file itself watches what has gone. So the directories are watched, of the file and of every symlink on
// the way to it.

const (
	// watchPause is how long nothing has to happen to the file before it is read: it may be half written.
	watchPause = 250 * time.Millisecond
	// maxSymlinks is how many symlinks are followed, as by Linux.
	maxSymlinks = 40
)

// watch has the settings read again when the file has changed. It ends with stop.
func (r *reloader) watch() {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("the configuration file is not watched: use SIGHUP or PROXY RELOAD", "error", err)
		return
	}
	defer func() { _ = watcher.Close() }()
	w := &fileWatch{watcher: watcher, path: r.path}
	if err := w.follow(); err != nil {
		r.log.Warn("the configuration file is not watched well: use SIGHUP or PROXY RELOAD", "config", w.path, "error", err)
	}
	settled := time.NewTimer(0) // it may have changed since it was read
	defer settled.Stop()
	for {
		select {
		case event := <-watcher.Events:
			if w.concerns(event) {
				settled.Reset(watchPause)
			}
		case err := <-watcher.Errors:
			r.log.Warn("watching the configuration file", "config", w.path, "error", err)
			settled.Reset(watchPause) // events may have been lost
		case <-settled.C:
			if err := w.follow(); err != nil && !os.IsNotExist(err) {
				r.log.Warn("watching the configuration file", "config", w.path, "error", err)
			}
			if r.unread() {
				_, _ = r.reload(r.ctx, "the file has changed") // the log has been told
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// fileWatch knows which directories to watch for a file, and which events there are about it. It belongs to one goroutine.
type fileWatch struct {
	watcher *fsnotify.Watcher
	path    string
	names   []string // of the file and of the symlinks on the way to it
	real    string   // where they lead
}

// follow finds out where the symlinks lead now, and has the directories watched. Of those that are not on the way any more
// most have been removed, and the others do no harm.
func (w *fileWatch) follow() error {
	w.names = nil
	w.real, _ = filepath.EvalSymlinks(w.path) // empty while there is no such file
	for name := w.path; len(w.names) < maxSymlinks; {
		w.names = append(w.names, name)
		if err := w.watcher.Add(filepath.Dir(name)); err != nil {
			return err
		}
		target := linkTarget(name)
		if target == "" {
			break
		}
		name = target
	}
	return nil
}

// linkTarget is where a symlink leads; empty: it is none, or there is no such file.
func linkTarget(name string) string {
	target, err := os.Readlink(name)
	if err != nil || filepath.IsAbs(target) {
		return target
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return ""
	}
	return filepath.Join(dir, target)
}

// concerns reports whether an event may be about the file. What happens to other files of a directory is none of ours,
// unless symlinks lead elsewhere by it.
func (w *fileWatch) concerns(event fsnotify.Event) bool {
	if slices.Contains(w.names, event.Name) {
		return true
	}
	leads, err := filepath.EvalSymlinks(w.path)
	return err == nil && leads != w.real
}
