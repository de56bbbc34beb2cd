#pragma once

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "kvcache/block_pool.h"
#include "scheduler/cost_model.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"

namespace sluice {

// What a daemon served and what its scheduler decided, for `sluice simulate`: when requests came,
// how long they were, which prefixes they shared and what happened to each; what every step held
// and how long it took. No text and no token. One JSON object a line, here broken for reading:
//
//   {"sluice_recording": 1, "block_size": 16, "num_blocks": 4096, "host_blocks": 0,
//    "kv_bytes_per_token": 18432, "config": "..."}                                       first
//   {"step": 7, "at": 1.31, "seconds": 0.012, "host_seconds": 0.0004, "prefill_tokens": 40,
//    "prefill_pairs": 820, "decode_rows": 3, "context": 310, "rows": 4, "waiting": 0, "running": 4,
//    "swap_out": 0, "swap_in": 0, "forks": 0, "copied": 0, "copy_seconds": 0}            one per
//    step
//   {"at": 1.25, "prompt": 40, "output": 7, "n": 1, "max_tokens": 64, "tenant": 0, "priority": 0,
//    "session": "00000000000000a1", "finish": "length", "blocks": ["9f..", ..],
//    "decisions": {"admitted": 0.06, "first_token": 0.07, "ended": 0.2, "cached": 16, ..,
//                  "events": [[0.06, "admitted", 16], ..]}}                         one per request
//   {"end": true, "requests": 1, "steps": 1}                                              last
//
// `at`: seconds since the start: of the arrival, or when the step was launched. `seconds`: on the
// device. `host_seconds`: what the engine's loop took beside that since the step before, or since
// it rested. `prefill_pairs`: of a prefilled token and one before it; `context`: tokens that
// decodes read. `waiting`, `running`: requests, at the launch. `copied`: blocks whose copies
// between device and host were done since the step before, in `copy_seconds`. `output`: tokens of
// the longest sample. `finish`: of the sample that ended last; "overloaded" and "error" were
// refused. `session`: hexadecimal, "0" is none. `blocks`: one per full block of block_size tokens
// of prompt and output (of the prompt alone where n > 1): 64 bits of a chained hash, so that two
// requests share a prefix of k blocks exactly if their first k are the same. The hash is keyed anew
// for every file: nobody can look up a text. `decisions`: as RequestTrace has them, in seconds
// since the arrival, null for never; missing where the scheduler refused. Requests and steps stand
// in the order in which they ended. Recordings of before steps and decisions were recorded lack
// those, and the sizes in the first line.
inline constexpr int kRecordingVersion = 1;

// Seconds since the arrival; negative: never.
struct RecordedDecisions {
  double admitted = -1, first_token = -1, ended = -1;
  int cached = 0, host_cached = 0;  // prompt tokens
  int chunks = 0, demotions = 0, promotions = 0;
  int swaps = 0, recomputes = 0;  // preemptions
  int recomputed_tokens = 0;
  int64_t swapped_blocks = 0;
  double swapped_seconds = 0;
};

struct RecordedRequest {
  double at = 0;
  int prompt = 0, output = 0, samples = 1, max_tokens = 0;
  uint32_t tenant = 0;
  int priority = 0;
  uint64_t session = 0;
  bool refused = false;  // nothing was computed
  std::vector<uint64_t> blocks;
  bool has_decisions = false;
  RecordedDecisions decisions;
};

struct RecordedStep {
  uint64_t id = 0;
  double at = 0, seconds = 0, host_seconds = 0;
  StepWork work;
  int rows = 0, waiting = 0, running = 0;
  int swap_out = 0, swap_in = 0, forks = 0;  // blocks
  int64_t copied = 0;
  double copy_seconds = 0;
};

// What the first line says. Sizes are 0 in recordings that do not have them.
struct RecordingHeader {
  int block_size = 0;
  int num_blocks = 0, host_blocks = 0;
  double kv_bytes_per_token = 0;
  std::string config;  // as print_config() wrote it
};

struct Recording {
  RecordingHeader header;
  std::vector<RecordedRequest> requests;  // by arrival
  std::vector<RecordedStep> steps;
};

// Refuses what is cut short, of another version, or not of this form: one line naming file and
// line.
absl::StatusOr<Recording> read_recording(const std::string& path);

// Writes a recording. Used by the engine thread only; costs a hash per token and a line per step.
class Recorder {
 public:
  static absl::StatusOr<std::unique_ptr<Recorder>> open(const std::string& path,
                                                        const RecordingHeader&, Instant start);
  ~Recorder();  // writes the last line
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void arrived(RequestId, const GenerateRequest&, Instant when);
  void observe(std::span<const TokenEvent>);
  // A step is about to run, and was committed. In order; several may be in flight.
  void launched(const StepPlan&, const Scheduler::Stats&, Instant now);
  void committed(const StepResult&, const CopyProgress&, Instant now);
  // There was nothing to do until `now`.
  void rested(Instant now) { busy_since_ = now; }

 private:
  struct Live {
    RecordedRequest request;
    BlockHash chain;
    std::vector<TokenId> partial;  // tokens of the block that is not full yet
    std::vector<int> outputs;      // by sample
    int samples_left = 1;
  };
  Recorder(std::FILE* file, std::string path, int block_size, Instant start);
  double since_start(Instant when) const { return std::max(0.0, to_seconds(when - start_)); }
  void append(Live&, TokenId);
  void write(const Live&, FinishReason, const RequestTrace*);
  void put(const std::string& line);

  std::FILE* file_;
  std::string path_;
  int block_size_;
  Instant start_;
  BlockHasher hasher_;
  std::unordered_map<RequestId, Live> live_;
  std::deque<RecordedStep> in_flight_;
  Instant busy_since_ = kNever;       // what the next step's time counts from
  CopyProgress copies_;               // as of the last step
  int64_t requests_ = 0, steps_ = 0;  // written
};

}  // namespace sluice
