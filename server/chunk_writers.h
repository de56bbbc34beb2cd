#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "server/api_types.h"
#include "server/chunk_writer.h"
#include "text/tokenizer.h"

namespace sluice {

// An HTTP response in the making: filled by a writer, emptied by the connection, both on one I/O
// thread. A streamed response has its status line decided by its first bytes, so an overload that
// the scheduler finds is still a real 503.
struct HttpReply {
  std::string bytes;  // of the body, not yet taken by the connection
  bool streaming = false;
  bool ended = false;  // nothing will be added
  MaybeError error;    // instead of a body
  // What else takes a while and is not a generation: given up for at this time, with `late`.
  Instant give_up = kNever;
  MaybeError late;
  std::function<bool()> wake;  // bytes or the end have come; false: the connection is gone
};

// What both writers need to know of the request.
struct ReplyFormat {
  ApiKind kind = ApiKind::completion;
  std::string id, model;
  int64_t created = 0;
  int num_choices = 1, choices_per_prompt = 1;
  int num_prompt_tokens = 0;
  bool logprobs = false;
  bool tokens_as_ids = false;
  bool token_ids = false;        // return_token_ids
  bool prompt_logprobs = false;  // vLLM's, not echo's
  bool include_usage = false, continuous_usage = false;
  std::shared_ptr<const Tokenizer> tokenizer;
};

// Server-sent events, one per delta, for stream:true.
std::unique_ptr<ChunkWriter> make_sse_writer(ReplyFormat, std::shared_ptr<HttpReply>);
// One JSON body.
std::unique_ptr<ChunkWriter> make_json_writer(ReplyFormat, std::shared_ptr<HttpReply>);

}  // namespace sluice
