// What filter.c and the Go files share.

#pragma once

#include "envoy.h"

// The kinds of operations.
enum {
  set_namespace,   // key; of the metadata that follows
  set_metadata,    // key, value
  add_to_metadata, // key of a list, value
  set_header,      // key, value
  remove_header,   // key
  increment,       // number: the counter
  reply_header,    // key, value
  reply,           // key: the details, value: the body, number: the status; it has the headers before it
  continue_stream, // after a wait
};

// operation is a call of Envoy that a check asks for. The text is in one array, so that a list of
// operations has no pointers: C may then read it in Go's memory.
typedef struct {
  uint32_t kind, number;
  uint32_t key, key_length;
  uint32_t value, value_length;
} operation;

// phantom_apply calls Envoy for each operation, in this order.
void phantom_apply(envoy_stream, const operation* operations, size_t length, const char* all_text);

void phantom_commit(envoy_scheduler);
