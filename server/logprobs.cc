#include "server/logprobs.h"

#include <algorithm>
#include <string_view>

#include "server/json_text.h"

namespace sluice {
namespace {

void append_token_id(std::string& out, TokenId id) {
  out += "\"token_id:";
  append_int(out, id);
  out += '"';
}

void append_chat_token(std::string& out, TokenId id, float logprob, const Tokenizer& tokenizer,
                       bool as_ids) {
  const std::string_view piece = tokenizer.piece(id);
  out += R"({"token":)";
  if (as_ids) {
    append_token_id(out, id);
  } else {
    append_json_lossy(out, piece);
  }
  out += R"(,"logprob":)";
  append_logprob(out, logprob);
  out += R"(,"bytes":[)";
  for (size_t i = 0; i < piece.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, static_cast<unsigned char>(piece[i]));
  }
  out += ']';
}

void append_completion_token(std::string& out, TokenId id, const Tokenizer& tokenizer,
                             bool as_ids) {
  const std::string_view piece = tokenizer.piece(id);
  if (as_ids) {
    append_token_id(out, id);
  } else if (is_utf8(piece)) {
    append_json_string(out, piece);
  } else {
    constexpr char kHex[] = "0123456789abcdef";
    out += "\"bytes:";
    for (const char c : piece) {
      const auto byte = static_cast<unsigned char>(c);
      out += "\\\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
    out += '"';
  }
}

// The alternatives, and the token itself where it is not one of them.
void append_top_object(std::string& out, const TokenOut& token, const Tokenizer& tokenizer,
                       bool as_ids) {
  out += '{';
  bool own = false;
  for (const TokenLogprob& t : token.top) {
    if (out.back() != '{') out += ',';
    append_completion_token(out, t.token, tokenizer, as_ids);
    out += ':';
    append_logprob(out, t.logprob);
    own = own || t.token == token.id;
  }
  if (!own) {
    if (out.back() != '{') out += ',';
    append_completion_token(out, token.id, tokenizer, as_ids);
    out += ':';
    append_logprob(out, token.logprob);
  }
  out += '}';
}

template <class Each>
void append_list(std::string& out, const char* key, std::span<const TokenOut> tokens, Each each) {
  out += key;
  out += '[';
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    each(tokens[i]);
  }
  out += ']';
}

}  // namespace

void append_chat_logprobs(std::string& out, std::span<const TokenOut> tokens,
                          const Tokenizer& tokenizer, bool as_ids) {
  append_list(out, R"({"content":)", tokens, [&](const TokenOut& token) {
    append_chat_token(out, token.id, token.logprob, tokenizer, as_ids);
    out += R"(,"top_logprobs":[)";
    for (size_t i = 0; i < token.top.size(); ++i) {
      if (i > 0) out += ',';
      append_chat_token(out, token.top[i].token, token.top[i].logprob, tokenizer, as_ids);
      out += '}';
    }
    out += "]}";
  });
  out += R"(,"refusal":null})";
}

void append_completion_logprobs(std::string& out, std::span<const TokenOut> tokens,
                                const Tokenizer& tokenizer, bool as_ids) {
  append_list(out, R"({"tokens":)", tokens,
              [&](const TokenOut& t) { append_completion_token(out, t.id, tokenizer, as_ids); });
  append_list(out, R"(,"token_logprobs":)", tokens, [&](const TokenOut& t) {
    if (t.has_logprob) {
      append_logprob(out, t.logprob);
    } else {
      out += "null";
    }
  });
  append_list(out, R"(,"top_logprobs":)", tokens, [&](const TokenOut& t) {
    if (t.has_logprob) {
      append_top_object(out, t, tokenizer, as_ids);
    } else {
      out += "null";
    }
  });
  append_list(out, R"(,"text_offset":)", tokens,
              [&](const TokenOut& t) { append_int(out, t.text_offset); });
  out += '}';
}

void append_prompt_logprobs(std::string& out, const PromptOut& prompt, const Tokenizer& tokenizer) {
  const auto append_entry = [&](const TokenLogprob& t, int rank) {
    if (out.back() != '{') out += ',';
    out += '"';
    append_int(out, t.token);
    out += R"(":{"logprob":)";
    append_logprob(out, t.logprob);
    out += R"(,"rank":)";
    if (rank > 0) {
      append_int(out, rank);
    } else {
      out += "null";
    }
    out += R"(,"decoded_token":)";
    append_json_lossy(out, tokenizer.piece(t.token));
    out += '}';
  };
  out += "[null";
  const size_t width = prompt.width;
  for (size_t at = 0; width > 0 && at + width <= prompt.logprobs.size(); at += width) {
    const TokenLogprob& own = prompt.logprobs[at];
    const auto top = prompt.logprobs.subspan(at + 1, width - 1);
    out += ",{";
    const auto same = [&](const TokenLogprob& t) { return t.token == own.token; };
    if (std::none_of(top.begin(), top.end(), same)) append_entry(own, 0);
    for (size_t i = 0; i < top.size(); ++i) append_entry(top[i], static_cast<int>(i) + 1);
    out += '}';
  }
  out += ']';
}

void append_ids(std::string& out, std::span<const TokenId> ids) {
  out += '[';
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, ids[i]);
  }
  out += ']';
}

}  // namespace sluice
