// The functions that Envoy calls for configurations. The results are handles of Go objects; NULL
// rejects the configuration.

#include "_cgo_export.h"
#include "filter.h"

module_config MODULE(http_filter_config_new)(envoy_config envoy, envoy_text name, envoy_text config) {
  return (module_config)phantomNewConfig(envoy, (text){name.ptr, name.length}, (text){config.ptr, config.length});
}

void MODULE(http_filter_config_destroy)(module_config config) { phantomDestroyConfig((uintptr_t)config); }

module_route MODULE(http_filter_per_route_config_new)(envoy_text name, envoy_text config) {
  return (module_route)phantomNewRoute((text){name.ptr, name.length}, (text){config.ptr, config.length});
}

void MODULE(http_filter_per_route_config_destroy)(module_route route) { phantomDestroyRoute((uintptr_t)route); }
