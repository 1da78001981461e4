// What fake.c and fake.go share.

#pragma once

#include "../envoy.h"

// call_kind is what a worker is to call. All but the last three are functions of the module.
typedef enum {
  new_config,
  destroy_config,
  new_route,
  destroy_route,
  new_stream,
  request,
  scheduled,
  complete,
  destroy,
  whole_streams, // argument: how many; the result is how many of them continued
  empty_hooks,   // argument: how many
  end_worker,
} call_kind;

// operation is one call of Envoy by the module, with copies of its texts.
typedef struct {
  const char* name;
  uint64_t number;
  size_t count;
  text texts[3];
} operation;

typedef struct worker worker;

// stream is Envoy's stream.
typedef struct {
  worker* worker;
  module_config config;
  module_route route;
  module_stream module;
  envoy_header* headers;
  size_t headers_length;
  bool refuses_headers; // get_headers fails
  bool ends_inside;     // continue_decoding ends the stream before it returns
  bool quiet;           // records nothing and keeps its headers, for benchmarks
  operation* operations;
  size_t length, capacity;
} stream;

// call is a call for a worker. The texts are in memory of C and are freed by it.
typedef struct {
  call_kind kind;
  stream* stream;
  uintptr_t argument;
  text name, config;
  int64_t cpu; // a result: the processor time of the thread, in nanoseconds
} call;

worker* fake_start(void);
uintptr_t fake_call(worker*, call*); // does the call in the thread of the worker and returns its result

// fake_counts are the schedulers that the module made, its commits, and the schedulers that it deleted.
typedef struct {
  int made, commits, deleted;
} fake_counts;
fake_counts fake_schedulers(void);

// fake_journal returns the lines of fake_note since the last call. The caller frees it.
text fake_journal(void);

void fake_clear(stream*); // forgets the operations
