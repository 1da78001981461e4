// Functions that Envoy requires and that have nothing to do.

#include "envoy.h"

const char* MODULE(program_init)(void) { return ENVOY_DYNAMIC_MODULES_ABI_VERSION; }

// Called for every stream. 0 continues.
unsigned MODULE(http_filter_request_body)(envoy_stream envoy, module_stream module, bool end) { return 0; }
unsigned MODULE(http_filter_request_trailers)(envoy_stream envoy, module_stream module) { return 0; }
unsigned MODULE(http_filter_response_headers)(envoy_stream envoy, module_stream module, bool end) { return 0; }
unsigned MODULE(http_filter_response_body)(envoy_stream envoy, module_stream module, bool end) { return 0; }
unsigned MODULE(http_filter_response_trailers)(envoy_stream envoy, module_stream module) { return 0; }
unsigned MODULE(http_filter_local_reply)(envoy_stream envoy, module_stream module, uint32_t status, envoy_text details, bool reset) { return 0; }
void MODULE(http_filter_downstream_above_write_buffer_high_watermark)(envoy_stream envoy, module_stream module) {}
void MODULE(http_filter_downstream_below_write_buffer_low_watermark)(envoy_stream envoy, module_stream module) {}

// Never called: the module sends no requests through Envoy and schedules nothing for a configuration.
#define UNUSED(function) void MODULE(function)(void) {}
UNUSED(http_filter_http_callout_done)
UNUSED(http_filter_http_stream_headers)
UNUSED(http_filter_http_stream_data)
UNUSED(http_filter_http_stream_trailers)
UNUSED(http_filter_http_stream_complete)
UNUSED(http_filter_http_stream_reset)
UNUSED(http_filter_config_scheduled)
UNUSED(http_filter_config_http_callout_done)
UNUSED(http_filter_config_http_stream_headers)
UNUSED(http_filter_config_http_stream_data)
UNUSED(http_filter_config_http_stream_trailers)
UNUSED(http_filter_config_http_stream_complete)
UNUSED(http_filter_config_http_stream_reset)
