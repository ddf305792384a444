package main

import (
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/grantway/grantway/resource"
)

// setClock lets a follower that runs see the wall clock ahead by what ahead says, while
// its monotonic clock goes on, as when somebody sets the machine's time. Nobody else's
// clock may be touched for it, and a process cannot have a wall clock of its own, so
// this reaches for the two fields through which a Verifier looks at it.
func setClock(v *resource.Verifier, ahead *atomic.Int64) error {
	type instant struct{ mono, wall time.Duration }
	clock := reflect.ValueOf(v).Elem().FieldByName("clock")
	now := reflect.ValueOf(v).Elem().FieldByName("now")
	if !clock.IsValid() || !now.IsValid() || clock.Kind() != reflect.Func || clock.Type().NumIn() != 0 || clock.Type().NumOut() != 1 ||
		fields(clock.Type().Out(0)) != fields(reflect.TypeFor[instant]()) ||
		now.Type() != reflect.TypeFor[func() time.Time]() {
		return errors.New("a Verifier looks at its clocks in another way: see resource/lease.go")
	}
	looks := (*func() instant)(unsafe.Pointer(clock.UnsafeAddr()))
	says := (*func() time.Time)(unsafe.Pointer(now.UnsafeAddr()))
	look, say := *looks, *says
	*looks = func() instant {
		i := look()
		return instant{i.mono, i.wall + time.Duration(ahead.Load())}
	}
	*says = func() time.Time { return say().Add(time.Duration(ahead.Load())) }
	return nil
}

// fields tells what a struct holds where.
func fields(t reflect.Type) (all string) {
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			all += fmt.Sprint(f.Name, f.Type, f.Offset)
		}
	}
	return all
}
