// Envoy's functions, and its workers.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake.h"

// worker is a thread that does one call after the other.
struct worker {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t change;
  call* call; // NULL: none
  uintptr_t result;
};

static pthread_mutex_t journal_lock = PTHREAD_MUTEX_INITIALIZER;
static text journal;

// note adds a line to the journal.
static void note(const char* what, text line) {
  pthread_mutex_lock(&journal_lock);
  size_t before = journal.length, length = strlen(what);
  char* all = realloc((char*)journal.ptr, before + length + line.length + 1);
  memcpy(all + before, what, length);
  memcpy(all + before + length, line.ptr, line.length);
  all[before + length + line.length] = '\0';
  journal = (text){all, before + length + line.length + 1};
  pthread_mutex_unlock(&journal_lock);
}

text fake_journal(void) {
  pthread_mutex_lock(&journal_lock);
  text all = journal;
  journal = (text){NULL, 0};
  pthread_mutex_unlock(&journal_lock);
  return all;
}

// expect_worker notes an error if the caller is another thread. The worker itself calls functions of the
// module only, so that one of them is running.
static void expect_worker(worker* w, const char* function) {
  if (!pthread_equal(pthread_self(), w->thread)) {
    note("error: in another thread: ", (text){function, strlen(function)});
  }
}

static text copy(text t) {
  char* memory = malloc(t.length + 1);
  if (t.length > 0) {
    memcpy(memory, t.ptr, t.length);
  }
  return (text){memory, t.length};
}

// record records a call of the module.
static void record(stream* s, const char* name, uint64_t number, size_t count, const text* texts) {
  expect_worker(s->worker, name);
  if (s->quiet) {
    return;
  }
  if (s->length == s->capacity) {
    s->capacity = 2 * s->capacity + 8;
    s->operations = realloc(s->operations, s->capacity * sizeof(operation));
  }
  operation* o = &s->operations[s->length++];
  *o = (operation){.name = name, .number = number, .count = count};
  for (size_t i = 0; i < count; i++) {
    o->texts[i] = copy(texts[i]);
  }
}

void fake_clear(stream* s) {
  for (size_t i = 0; i < s->length; i++) {
    for (size_t j = 0; j < s->operations[i].count; j++) {
      free((char*)s->operations[i].texts[j].ptr);
    }
  }
  free(s->operations);
  s->operations = NULL;
  s->length = s->capacity = 0;
}

// overwrite makes memory that the module must not use any more useless.
static void overwrite(const char* memory, size_t length) { memset((char*)memory, '!', length); }

static void overwrite_headers(stream* s) {
  for (envoy_header* h = s->headers; h < s->headers + s->headers_length; h++) {
    overwrite(h->key_ptr, h->key_length);
    overwrite(h->value_ptr, h->value_length);
  }
}

static void free_headers(stream* s) {
  overwrite_headers(s);
  for (envoy_header* h = s->headers; h < s->headers + s->headers_length; h++) {
    free((char*)h->key_ptr);
    free((char*)h->value_ptr);
  }
  free(s->headers);
  s->headers = NULL;
  s->headers_length = 0;
}

static void free_text(text t) {
  overwrite(t.ptr, t.length);
  free((char*)t.ptr);
}

// Envoy's functions.

void ENVOY(log)(unsigned level, text message) { note(level == log_warning ? "warning: " : "other: ", message); }

unsigned ENVOY(http_filter_config_define_counter)(envoy_config envoy, text name, text* labels, size_t labels_length, size_t* id) {
  static size_t next = 100;
  expect_worker(envoy, "define_counter");
  note(labels_length > 0 ? "error: labels of " : "counter ", name);
  *id = next++;
  return name.length > 0 ? metrics_success : 1;
}

unsigned ENVOY(http_filter_increment_counter)(envoy_stream s, size_t id, text* labels, size_t labels_length, uint64_t value) {
  record(s, value == 1 && labels_length == 0 ? "count" : "count otherwise", id, 0, NULL);
  return metrics_success;
}

size_t ENVOY(http_get_headers_size)(envoy_stream envoy, unsigned type) {
  const stream* s = envoy;
  expect_worker(s->worker, "get_headers_size");
  return type == request_headers ? s->headers_length : 0;
}

bool ENVOY(http_get_headers)(envoy_stream envoy, unsigned type, envoy_header* result) {
  const stream* s = envoy;
  expect_worker(s->worker, "get_headers");
  memcpy(result, s->headers, s->headers_length * sizeof(envoy_header));
  return type == request_headers && !s->refuses_headers;
}

// A change of the headers invalidates those that the module got before.
bool ENVOY(http_set_header)(envoy_stream envoy, unsigned type, text name, text value) {
  stream* s = envoy;
  if (!s->quiet) {
    overwrite_headers(s);
  }
  record(s, type != request_headers ? "set of another type" : value.ptr == NULL ? "remove" : "set", 0, value.ptr == NULL ? 1 : 2, (text[]){name, value});
  return true;
}

void ENVOY(http_set_dynamic_metadata_string)(envoy_stream s, text space, text key, text value) {
  record(s, "metadata", 0, 3, (text[]){space, key, value});
}

bool ENVOY(http_add_dynamic_metadata_list_string)(envoy_stream s, text space, text key, text value) {
  record(s, "list", 0, 3, (text[]){space, key, value});
  return true;
}

void ENVOY(http_send_response)(envoy_stream s, uint32_t status, header* headers, size_t headers_length, text body, text details) {
  for (size_t i = 0; i < headers_length; i++) {
    const header* h = &headers[i];
    record(s, "reply header", 0, 2, (text[]){{h->key_ptr, h->key_length}, {h->value_ptr, h->value_length}});
  }
  record(s, "reply", status, 2, (text[]){body, details});
}

void ENVOY(http_filter_continue_decoding)(envoy_stream envoy) {
  stream* s = envoy;
  record(s, "continue", 0, 0, NULL);
  if (s->ends_inside) {
    MODULE(http_filter_stream_complete)(s, s->module);
    MODULE(http_filter_destroy)(s->module);
    s->module = NULL;
  }
}

module_route ENVOY(get_most_specific_route_config)(envoy_stream envoy) {
  const stream* s = envoy;
  expect_worker(s->worker, "get_most_specific_route_config");
  return s->route;
}

static atomic_int made, commits, deleted;

// The memory of a scheduler shows a use after its end to the address sanitizer.
envoy_scheduler ENVOY(http_filter_scheduler_new)(envoy_stream envoy) {
  expect_worker(((stream*)envoy)->worker, "scheduler_new");
  made++;
  return calloc(1, 1);
}

void ENVOY(http_filter_scheduler_commit)(envoy_scheduler scheduler, uint64_t event) {
  if (event != 0 || *(char*)scheduler != 0) {
    note("error: commit: ", (text){"event or scheduler", 18});
  }
  commits++;
}

void ENVOY(http_filter_scheduler_delete)(envoy_scheduler scheduler) {
  *(char*)scheduler = 1;
  deleted++;
  free(scheduler);
}

fake_counts fake_schedulers(void) { return (fake_counts){made, commits, deleted}; }

// Envoy's workers.

unsigned MODULE(http_filter_request_body)(envoy_stream, module_stream, bool end); // has nothing to do

static uintptr_t whole(stream* s, uintptr_t n) {
  uintptr_t continued = 0;
  for (uintptr_t i = 0; i < n; i++) {
    s->module = MODULE(http_filter_new)(s->config, s);
    continued += MODULE(http_filter_request_headers)(s, s->module, true) == headers_continue;
    MODULE(http_filter_stream_complete)(s, s->module);
    MODULE(http_filter_destroy)(s->module);
    s->module = NULL;
  }
  return continued;
}

static uintptr_t empty(stream* s, uintptr_t n) {
  for (uintptr_t i = 0; i < n; i++) {
    MODULE(http_filter_request_body)(s, NULL, true);
  }
  return 0;
}

static uintptr_t run(worker* w, const call* c) {
  stream* s = c->stream;
  uintptr_t result = 0;
  switch (c->kind) {
  case new_config:
    result = (uintptr_t)MODULE(http_filter_config_new)(w, (envoy_text){c->name.ptr, c->name.length}, (envoy_text){c->config.ptr, c->config.length});
    break;
  case destroy_config:
    MODULE(http_filter_config_destroy)((module_config)c->argument);
    break;
  case new_route:
    result = (uintptr_t)MODULE(http_filter_per_route_config_new)((envoy_text){c->name.ptr, c->name.length}, (envoy_text){c->config.ptr, c->config.length});
    break;
  case destroy_route:
    MODULE(http_filter_per_route_config_destroy)((module_route)c->argument);
    break;
  case new_stream:
    s->module = MODULE(http_filter_new)(s->config, s);
    break;
  case request:
    result = MODULE(http_filter_request_headers)(s, s->module, true);
    free_headers(s);
    break;
  case scheduled:
    MODULE(http_filter_scheduled)(s, s->module, 0);
    break;
  case complete:
    MODULE(http_filter_stream_complete)(s, s->module);
    break;
  case destroy:
    MODULE(http_filter_destroy)(s->module);
    s->module = NULL;
    free_headers(s);
    break;
  case whole_streams:
    return whole(s, c->argument);
  case empty_hooks:
    return empty(s, c->argument);
  case end_worker:
    break;
  }
  return result;
}

static int64_t cpu(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void* work(void* argument) {
  worker* w = argument;
  for (bool ends = false; !ends;) {
    pthread_mutex_lock(&w->lock);
    while (w->call == NULL) {
      pthread_cond_wait(&w->change, &w->lock);
    }
    call* c = w->call;
    ends = c->kind == end_worker;
    int64_t before = cpu();
    w->result = run(w, c);
    c->cpu = cpu() - before;
    free_text(c->name);
    free_text(c->config);
    w->call = NULL;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
  }
  return NULL;
}

worker* fake_start(void) {
  worker* w = calloc(1, sizeof(worker));
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->change, NULL);
  pthread_create(&w->thread, NULL, work, w);
  return w;
}

uintptr_t fake_call(worker* w, call* c) {
  bool ends = c->kind == end_worker;
  pthread_mutex_lock(&w->lock);
  w->call = c;
  pthread_cond_broadcast(&w->change);
  while (w->call != NULL) {
    pthread_cond_wait(&w->change, &w->lock);
  }
  uintptr_t result = w->result;
  pthread_mutex_unlock(&w->lock);
  if (ends) {
    pthread_join(w->thread, NULL);
    free(w);
  }
  return result;
}
