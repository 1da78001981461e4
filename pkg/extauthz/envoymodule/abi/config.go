//go:build cgo

package abi

// #include "filter.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	sdk "github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go"
	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
)

// Factory makes the filters of one configuration.
type Factory interface {
	shared.HttpFilterFactory
	// Refuse counts a panic of this package and answers the stream. It does not panic.
	Refuse(stream shared.HttpFilterHandle, panicked any)
}

// objects are the configurations that Envoy has: a Factory for each filter, and those of routes. They are in
// one table, so that the number of one is not that of the other.
var objects table

var (
	errNil    = errors.New("the factory is nil")
	errRefuse = errors.New("the factory has no method Refuse")
)

// configHandle is what a configuration may use of Envoy while it is created.
type configHandle struct {
	shared.HttpFilterConfigHandle
	envoy C.envoy_config
}

// DefineCounter implements shared.HttpFilterConfigHandle, for counters without tags.
func (h configHandle) DefineCounter(name string, tags ...string) (shared.MetricID, shared.MetricsResult) {
	if len(tags) > 0 {
		return 0, shared.MetricsInvalidTags
	}
	var id C.size_t
	result := C.envoy_dynamic_module_callback_http_filter_config_define_counter(h.envoy, textOf(name), nil, 0, &id)
	runtime.KeepAlive(name)
	if result != C.metrics_success {
		return 0, shared.MetricsResult(result)
	}
	return shared.MetricID(id), shared.MetricsSuccess
}

// textOf returns text in the memory of s.
func textOf(s string) C.text {
	return C.text{ptr: (*C.char)(unsafe.Pointer(unsafe.StringData(s))), length: C.size_t(len(s))}
}

// stringOf returns a string in the memory of t.
func stringOf(t C.text) string { return unsafe.String((*byte)(unsafe.Pointer(t.ptr)), t.length) }

// bytesOf returns a slice of the memory of t.
func bytesOf(t C.text) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(t.ptr)), t.length) }

// reject logs why a configuration is rejected, because Envoy's own message does not say it. The result is 0.
func reject(what string, err error) (none C.uintptr_t) {
	message := fmt.Sprintf("Failed to load %s: %v", what, err)
	C.envoy_dynamic_module_callback_log(C.log_warning, textOf(message))
	runtime.KeepAlive(message)
	return 0
}

// recovered turns a panic into an error. Its text may hold a secret.
func recovered(err *error) {
	if value := recover(); value != nil {
		*err = fmt.Errorf("panic: %T", value)
	}
}

// contain keeps a panic from C, where it would end Envoy. The stream stays as it is, so it does not
// continue. Panics of filters and factories do not reach it: they recover and count their own.
func contain() { _ = recover() }

//export phantomNewConfig
func phantomNewConfig(envoy C.envoy_config, name, config C.text) C.uintptr_t {
	f, err := newConfig(configHandle{envoy: envoy}, stringOf(name), bytesOf(config))
	if err != nil {
		return reject("configuration", err)
	}
	return objects.add(f)
}

func newConfig(handle configHandle, name string, config []byte) (f Factory, err error) {
	defer recovered(&err)
	made, err := sdk.NewHttpFilterFactory(handle, name, config)
	switch {
	case err != nil:
		return nil, err
	case made == nil:
		return nil, errNil
	}
	f, ok := made.(Factory)
	if !ok {
		made.OnDestroy()
		return nil, errRefuse
	}
	return f, nil
}

//export phantomDestroyConfig
func phantomDestroyConfig(config C.uintptr_t) {
	defer contain()
	f := objects.get(config).(Factory)
	objects.remove(config)
	f.OnDestroy()
}

//export phantomNewRoute
func phantomNewRoute(name, config C.text) C.uintptr_t {
	route, err := newRoute(stringOf(name), bytesOf(config))
	if err != nil {
		return reject("per-route configuration", err)
	}
	return objects.add(route)
}

func newRoute(name string, config []byte) (route any, err error) {
	defer recovered(&err)
	factory := sdk.GetHttpFilterConfigFactory(name)
	if factory == nil {
		return nil, fmt.Errorf("no factory for %s", name)
	}
	if route, err = factory.CreatePerRoute(config); err == nil && route == nil {
		err = errNil
	}
	return route, err
}

//export phantomDestroyRoute
func phantomDestroyRoute(route C.uintptr_t) {
	defer contain()
	objects.remove(route)
}
