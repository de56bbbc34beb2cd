#pragma once

#include <span>
#include <string>

#include "server/chunk_writer.h"
#include "text/tokenizer.h"

// Log-probabilities as OpenAI's two APIs (and vLLM's extension for prompts) shape them in JSON.
namespace sluice {

// {"content":[{"token","logprob","bytes","top_logprobs":[...]}],"refusal":null}
void append_chat_logprobs(std::string& out, std::span<const TokenOut>, const Tokenizer&,
                          bool as_ids);
// {"tokens":[],"token_logprobs":[],"top_logprobs":[],"text_offset":[]}. A token that is not whole
// characters is written "bytes:\xe2\x96", so that each key of top_logprobs is one token.
void append_completion_logprobs(std::string& out, std::span<const TokenOut>, const Tokenizer&,
                                bool as_ids);
// [null,{"<id>":{"logprob","rank","decoded_token"}}]: rank is null where it is not known.
void append_prompt_logprobs(std::string& out, const PromptOut&, const Tokenizer&);
void append_ids(std::string& out, std::span<const TokenId>);

}  // namespace sluice
