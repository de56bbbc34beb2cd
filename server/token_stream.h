#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/request.h"
#include "text/tokenizer.h"

namespace sluice {

struct Usage {
  int prompt = 0, cached = 0, completion = 0;
};

// One protocol's way of writing: SSE chunks, one JSON body, or gRPC messages.
class ChunkWriter {
 public:
  virtual ~ChunkWriter() = default;
  virtual bool write(std::string_view text, const TokenEvent&) = 0;  // false: client is gone
  virtual void finish(FinishReason, const Usage&) = 0;
};

// A request's way back to its client. Born, fed and destroyed on one I/O thread,
// so it needs no lock. Detokenising and stop strings happen here, off the engine.
class TokenStream {
 public:
  TokenStream(RequestId, const Tokenizer&, std::vector<std::string> stops,
              std::unique_ptr<ChunkWriter>);
  enum class Next { more, cancel, done };  // cancel: tell the engine to stop this request
  Next push(const TokenEvent&);

 private:
  RequestId id_;
  Detokenizer detokenizer_;
  StopMatcher stops_;
  Usage usage_;
  std::unique_ptr<ChunkWriter> writer_;
};

}  // namespace sluice
