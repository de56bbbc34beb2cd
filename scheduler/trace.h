#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"

namespace sluice {

// What happened to a request, and when: for its own response, GET /v1/requests/{id}/trace and
// recordings. Filled by the scheduler as it goes; events beyond kMaxEvents are counted only.
struct RequestTrace {
  enum class Kind : uint8_t {
    admitted,     // value: prompt tokens found in the cache
    chunk,        // value: prompt tokens computed by the step (or recomputed)
    first_token,  // value: 0
    demoted,      // value: its new level
    promoted,     // value: its new level
    swapped_out,  // value: blocks to copy
    swap_in,      // value: blocks to copy; it runs again at `resumed`
    recompute,    // value: tokens whose keys and values were given up
    resumed,      // value: tokens it still has to compute
    ended,        // value: output tokens of all samples
  };
  struct Event {
    Instant when{};
    Kind kind{};
    int value = 0;
  };
  static constexpr int kMaxEvents = 256;

  Instant arrived{}, admitted = kNever, first_token = kNever, ended = kNever;
  int prompt_tokens = 0, output_tokens = 0;
  int cached_tokens = 0;       // of the prompt, from the device's cache when it first came in
  int host_cached_tokens = 0;  // likewise, from the host's
  int level = 0;               // MLFQ: its present one
  int chunks = 0, demotions = 0, promotions = 0;
  int swaps = 0, recomputes = 0;  // preemptions, by kind
  int recomputed_tokens = 0;
  int64_t swapped_blocks = 0;  // both ways
  Nanos swapped_time{};        // from going out until it ran again
  Nanos copy_time{};           // from being let in until its blocks' copies were done
  int dropped_events = 0;
  std::vector<Event> events;

  void note(Instant when, Kind kind, int value) {
    if (int(events.size()) < kMaxEvents) {
      events.push_back({when, kind, value});
    } else {
      ++dropped_events;
    }
  }
};

inline const char* name_of(RequestTrace::Kind kind) {
  using Kind = RequestTrace::Kind;
  switch (kind) {
    case Kind::admitted:
      return "admitted";
    case Kind::chunk:
      return "chunk";
    case Kind::first_token:
      return "first_token";
    case Kind::demoted:
      return "demoted";
    case Kind::promoted:
      return "promoted";
    case Kind::swapped_out:
      return "swapped_out";
    case Kind::swap_in:
      return "swap_in";
    case Kind::recompute:
      return "recompute";
    case Kind::resumed:
      return "resumed";
    case Kind::ended:
      return "ended";
  }
  return "unknown";
}

// A live request at a glance.
struct RequestInfo {
  enum class State : uint8_t { waiting, running, swapped, arriving };
  RequestId id = 0;
  State state = State::waiting;
  int priority = 0;
  uint32_t tenant = 0;
  int num_samples = 1;
  Nanos age{};
  RequestTrace trace;
};

}  // namespace sluice
