#pragma once

#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "kvcache/block_pool.h"
#include "scheduler/request.h"

namespace sluice {

// Traffic that a daemon served, for `sluice simulate --trace`: when requests came, how long they
// were and which prefixes they shared, but no text and no token. One JSON object a line:
//
//   {"sluice_recording": 1, "block_size": 16, "config": "..."}          first
//   {"at": 1.25, "prompt": 40, "output": 7, "n": 1, "max_tokens": 64, "tenant": 0, "priority": 0,
//    "session": "00000000000000a1", "finish": "length", "blocks": ["9f..", ..]}   one per request
//   {"end": true, "requests": 1}                                         last
//
// `at`: seconds since the start. `output`: tokens of the longest sample. `finish`: of the sample
// that ended last; "overloaded" and "error" were refused. `session`: hexadecimal, "0" is none.
// `blocks`: one per full block of block_size tokens of prompt and output (of the prompt alone where
// n > 1): 64 bits of a chained hash, so that two requests share a prefix of k blocks exactly if
// their first k are the same. The hash is keyed anew for every file: nobody can look up a text.
// Requests stand in the order in which they ended. Objects that have a "step" are skipped.
inline constexpr int kRecordingVersion = 1;

struct RecordedRequest {
  double at = 0;
  int prompt = 0, output = 0, samples = 1, max_tokens = 0;
  uint32_t tenant = 0;
  int priority = 0;
  uint64_t session = 0;
  bool refused = false;  // nothing was computed
  std::vector<uint64_t> blocks;
};

struct Recording {
  int block_size = 0;
  std::string config;                     // as print_config() wrote it
  std::vector<RecordedRequest> requests;  // by arrival
};

// Refuses what is cut short, of another version, or not of this form: one line naming file and
// line.
absl::StatusOr<Recording> read_recording(const std::string& path);

// Writes a recording. Used by the engine thread only; costs a hash per token.
class Recorder {
 public:
  static absl::StatusOr<std::unique_ptr<Recorder>> open(const std::string& path, int block_size,
                                                        std::string_view config, Instant start);
  ~Recorder();  // writes the last line
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void arrived(RequestId, const GenerateRequest&, Instant when);
  void observe(std::span<const TokenEvent>);

 private:
  struct Live {
    RecordedRequest request;
    BlockHash chain;
    std::vector<TokenId> partial;  // tokens of the block that is not full yet
    std::vector<int> outputs;      // by sample
    int samples_left = 1;
  };
  Recorder(std::FILE* file, std::string path, int block_size, Instant start);
  void append(Live&, TokenId);
  void write(const Live&, FinishReason);
  void put(const std::string& line);

  std::FILE* file_;
  std::string path_;
  int block_size_;
  Instant start_;
  BlockHasher hasher_;
  std::unordered_map<RequestId, Live> live_;
  int64_t written_ = 0;
};

}  // namespace sluice
