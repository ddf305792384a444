package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// stat is what /proc/PID/stat says that we need (proc(5)). Times are exact to 10 ms.
type stat struct {
	parent   int
	cpu      time.Duration // user and system, of all threads
	children time.Duration // the same of children that ended and were waited for
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go runs on

func statOf(pid int) (stat, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name, in brackets, may hold anything; field 3 comes after the last bracket.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	number := func(field int) int {
		n, _ := strconv.Atoi(fields[field-3])
		return n
	}
	return stat{parent: number(4), cpu: time.Duration(number(14)+number(15)) * tick, children: time.Duration(number(16)+number(17)) * tick}, nil
}

// cpuOf is the processor time that all threads of a process have used, to the nanosecond:
// a few hundred questions take less of a server than a tick. It is read off the clock that
// the kernel has for each process (clock_getcpuclockid(3)).
func cpuOf(pid int) (time.Duration, error) {
	const cpuclockSched = 2
	var t syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(^pid<<3|cpuclockSched), uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		return 0, fmt.Errorf("the clock of process %d: %w", pid, errno)
	}
	return time.Duration(t.Nano()), nil
}

// cpuOfTree is the processor time of a process and all its children, also those
// that have ended. A tree of two levels, as PostgreSQL's.
func cpuOfTree(root int) (time.Duration, error) {
	s, err := statOf(root)
	if err != nil {
		return 0, err
	}
	sum := s.cpu + s.children
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if s, err := statOf(pid); err == nil && s.parent == root { // others end meanwhile
			sum += s.cpu
		}
	}
	return sum, nil
}

// procNumber reads the number of one line, such as "VmRSS:", of a file of /proc/PID.
func procNumber(pid int, file, label string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, label); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/%d/%s has no line %s", pid, file, label)
}

// resident is the memory of a process in MiB: now, and at most since it started.
func resident(pid int) (now, most float64, err error) {
	kib, err := procNumber(pid, "status", "VmRSS:")
	if err != nil {
		return 0, 0, err
	}
	peak, err := procNumber(pid, "status", "VmHWM:")
	return float64(kib) / 1024, float64(peak) / 1024, err
}

// written is how many bytes a process caused to be written to disks, counted when a
// page becomes dirty. Sockets do not count; its log does.
func written(pid int) (int64, error) { return procNumber(pid, "io", "write_bytes:") }
