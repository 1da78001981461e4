// The functions that Envoy calls for each stream. A check that the cache can answer changes to Go
// once, and back once.

#include <stdlib.h>
#include <time.h>

#include "_cgo_export.h"
#include "filter.h"

// stream is what a stream keeps between its calls.
typedef struct {
  module_config config;
  uintptr_t waiting; // the stream in Go, from the start of a look-up; 0: none
} stream;

module_stream MODULE(http_filter_new)(module_config config, envoy_stream envoy) {
  stream* s = calloc(1, sizeof(stream));
  if (s != NULL) { // else the request is stopped
    s->config = config;
  }
  return s;
}

// Most requests have fewer headers. For more, memory is allocated.
enum { few_headers = 64 };

unsigned MODULE(http_filter_request_headers)(envoy_stream envoy, module_stream module, bool end) {
  stream* s = (stream*)module;
  envoy_header few[few_headers];
  envoy_header* headers = few;
  size_t length = ENVOY(http_get_headers_size)(envoy, request_headers);
  if (length > few_headers) {
    headers = calloc(length, sizeof(envoy_header));
  }
  bool passes = false;
  if (s != NULL && headers != NULL && (length == 0 || ENVOY(http_get_headers)(envoy, request_headers, headers))) {
    module_route route = ENVOY(get_most_specific_route_config)(envoy);
    passes = phantomCheck(envoy, (uintptr_t)s->config, (uintptr_t)route, headers, length, &s->waiting);
  }
  if (headers != few) {
    free(headers);
  }
  return passes ? headers_continue : headers_stop_and_watermark;
}

void MODULE(http_filter_scheduled)(envoy_stream envoy, module_stream module, uint64_t event) {
  const stream* s = module;
  if (s != NULL && s->waiting != 0) {
    phantomResume(s->waiting);
  }
}

static void end(stream* s) {
  if (s != NULL && s->waiting != 0) {
    phantomEnd(s->waiting);
    s->waiting = 0;
  }
}

void MODULE(http_filter_stream_complete)(envoy_stream envoy, module_stream module) { end((stream*)module); }

// yield_interval is how often a busy worker passes through Go's scheduler, in nanoseconds. The monitor of
// the scheduler (sysmon) takes the processor from a thread that has not done so for 10 ms (runtime/proc.go),
// then does it again every 20 us, and interrupts the thread by a signal: each time costs more than a check.
// Larger is too late; smaller costs more changes of threads.
enum { yield_interval = 5000000 };

static void yield_if_due(void) {
  static __thread int64_t last __attribute__((tls_model("initial-exec"))); // as Go does: without a call of the loader
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &t); // of the last tick of the kernel: it costs next to nothing
  int64_t now = t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
  if (now - last >= yield_interval) {
    last = now;
    phantomYield();
  }
}

// Envoy calls it after the response, so that no request waits for the scheduler.
void MODULE(http_filter_destroy)(module_stream module) {
  end((stream*)module);
  free((void*)module);
  yield_if_due();
}

void phantom_commit(envoy_scheduler scheduler) { ENVOY(http_filter_scheduler_commit)(scheduler, 0); }

void phantom_apply(envoy_stream envoy, const operation* operations, size_t length, const char* all_text) {
  text space = {"", 0};
  header reply_headers[16]; // a denial has at most 5
  size_t reply_length = 0;
  for (const operation* o = operations; o < operations + length; o++) {
    text key = {all_text + o->key, o->key_length};
    text value = {all_text + o->value, o->value_length};
    switch (o->kind) {
    case set_namespace:
      space = key;
      break;
    case set_metadata:
      ENVOY(http_set_dynamic_metadata_string)(envoy, space, key, value);
      break;
    case add_to_metadata:
      ENVOY(http_add_dynamic_metadata_list_string)(envoy, space, key, value);
      break;
    case set_header:
      ENVOY(http_set_header)(envoy, request_headers, key, value);
      break;
    case remove_header:
      ENVOY(http_set_header)(envoy, request_headers, key, (text){NULL, 0});
      break;
    case increment:
      ENVOY(http_filter_increment_counter)(envoy, o->number, NULL, 0, 1);
      break;
    case reply_header:
      if (reply_length < sizeof(reply_headers) / sizeof(reply_headers[0])) {
        reply_headers[reply_length++] = (header){key.ptr, key.length, value.ptr, value.length};
      }
      break;
    case reply:
      ENVOY(http_send_response)(envoy, o->number, reply_headers, reply_length, value, key);
      break;
    case continue_stream:
      ENVOY(http_filter_continue_decoding)(envoy);
      break;
    }
  }
}
