// The part of Envoy's C interface for dynamic modules that the module uses: version v0.1.0, as
// source/extensions/dynamic_modules/abi/abi.h of Envoy declares it. That file says what each function
// does. A test compiles this file together with it, so that all declarations agree.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef ENVOY_DYNAMIC_MODULES_ABI_VERSION // defined by Envoy's file
#define ENVOY_DYNAMIC_MODULES_ABI_VERSION "v0.1.0"

// Text in memory of Envoy. It is not terminated.
typedef struct {
  const char* ptr;
  size_t length;
} envoy_dynamic_module_type_envoy_buffer;

// Text in memory of the module. Envoy copies it before the function returns.
typedef struct {
  const char* ptr;
  size_t length;
} envoy_dynamic_module_type_module_buffer;

// A header in memory of Envoy. It is valid until the headers change.
typedef struct {
  const char* key_ptr;
  size_t key_length;
  const char* value_ptr;
  size_t value_length;
} envoy_dynamic_module_type_envoy_http_header;

// A header in memory of the module.
typedef struct {
  const char* key_ptr;
  size_t key_length;
  const char* value_ptr;
  size_t value_length;
} envoy_dynamic_module_type_module_http_header;
#endif

typedef envoy_dynamic_module_type_envoy_buffer envoy_text;
typedef envoy_dynamic_module_type_module_buffer text;
typedef envoy_dynamic_module_type_envoy_http_header envoy_header;
typedef envoy_dynamic_module_type_module_http_header header;

// Pointers to objects of Envoy, and to ours. Both sides only pass them back.
typedef void* envoy_config;
typedef void* envoy_stream;
typedef void* envoy_scheduler;
typedef const void* module_config;
typedef const void* module_route;
typedef const void* module_stream;

// Values of Envoy's enumerations.
enum {
  request_headers = 0,             // http_header_type
  headers_continue = 0,            // on_http_filter_request_headers_status
  headers_stop_and_watermark = 4,
  log_warning = 3,                 // log_level
  metrics_success = 0,             // metrics_result
};

#define ENVOY(function) envoy_dynamic_module_callback_##function
#define MODULE(function) envoy_dynamic_module_on_##function

// Functions of Envoy. Those of a stream may be called in its worker thread only, and while a function
// of the module is running; scheduler_commit and scheduler_delete in any thread.

void ENVOY(log)(unsigned level, text message);
unsigned ENVOY(http_filter_config_define_counter)(envoy_config, text name, text* labels, size_t labels_length, size_t* id);
unsigned ENVOY(http_filter_increment_counter)(envoy_stream, size_t id, text* labels, size_t labels_length, uint64_t value);
size_t ENVOY(http_get_headers_size)(envoy_stream, unsigned type);
bool ENVOY(http_get_headers)(envoy_stream, unsigned type, envoy_header* result);
bool ENVOY(http_set_header)(envoy_stream, unsigned type, text name, text value);
void ENVOY(http_set_dynamic_metadata_string)(envoy_stream, text space, text key, text value);
bool ENVOY(http_add_dynamic_metadata_list_string)(envoy_stream, text space, text key, text value);
void ENVOY(http_send_response)(envoy_stream, uint32_t status, header* headers, size_t headers_length, text body, text details);
void ENVOY(http_filter_continue_decoding)(envoy_stream);
module_route ENVOY(get_most_specific_route_config)(envoy_stream);
envoy_scheduler ENVOY(http_filter_scheduler_new)(envoy_stream);
void ENVOY(http_filter_scheduler_commit)(envoy_scheduler, uint64_t event);
void ENVOY(http_filter_scheduler_delete)(envoy_scheduler);

// Functions of the module that do something.

const char* MODULE(program_init)(void);
module_config MODULE(http_filter_config_new)(envoy_config, envoy_text name, envoy_text config);
void MODULE(http_filter_config_destroy)(module_config);
module_route MODULE(http_filter_per_route_config_new)(envoy_text name, envoy_text config);
void MODULE(http_filter_per_route_config_destroy)(module_route);
module_stream MODULE(http_filter_new)(module_config, envoy_stream);
unsigned MODULE(http_filter_request_headers)(envoy_stream, module_stream, bool end);
void MODULE(http_filter_scheduled)(envoy_stream, module_stream, uint64_t event);
void MODULE(http_filter_stream_complete)(envoy_stream, module_stream);
void MODULE(http_filter_destroy)(module_stream);
