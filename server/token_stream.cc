#include "server/token_stream.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "server/json_text.h"

namespace sluice {
namespace {

// Length of the longest end of `text` that one of `stops` could begin with.
size_t possible_stop_start(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.substr(text.size() - n) == std::string_view(stop).substr(0, n)) longest = n;
    }
  }
  return longest;
}

ApiError error_of(const TokenEvent& event) {
  switch (event.finish) {
    case FinishReason::cancelled:
      return api_error(ErrorKind::draining, "", "the server is shutting down");
    case FinishReason::deadline:
      return api_error(ErrorKind::deadline, "", "the request's deadline has passed");
    case FinishReason::overloaded:
      return api_error(ErrorKind::overloaded, "", "the queue is full; try again later");
    default:
      return api_error(ErrorKind::invalid, "", "{}", event.known().refusal);
  }
}

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::deadline:
      return "deadline";
    case FinishReason::overloaded:
      return "overloaded";
    default:
      return "refused";
  }
}

}  // namespace

struct TokenStream::PromptState {
  Prompt prompt;
  std::vector<TokenLogprob> logprobs;
  int cached = 0;
  std::shared_ptr<const RequestTrace> trace;
  bool ready = false;  // the first event, which carries the prompt's logprobs, has come
  bool announced = false;
};

struct TokenStream::Choice {
  Choice(const Tokenizer& tokenizer, const StreamOptions& options)
      : detokenizer(tokenizer, options.skip_special,
                    options.continues ? Beginning::continues : Beginning::of_text),
        stops(options.stop, options.include_stop) {}

  int index = 0;
  int prompt = 0;
  Detokenizer detokenizer;
  StopMatcher stops;
  std::string unarmed;  // text before min_tokens that a stop string may begin in
  int num_tokens = 0;
  double sum_logprobs = 0;
  int num_chars = 0;    // of the text, echo included: the next token's offset
  bool begun = false;   // an event has come
  bool opened = false;  // a delta has been written
  Instant last_token{};

  // Ready to be written.
  std::string text;
  std::vector<TokenOut> tokens;
  FinishReason finish = FinishReason::none;
  int stop_string = -1;
  TokenId stop_token = -1;
  bool written = false;  // the finish has been
};

TokenStream::TokenStream(std::shared_ptr<const Tokenizer> tokenizer, StreamOptions options,
                         std::vector<Prompt> prompts, std::unique_ptr<ChunkWriter> writer,
                         Metrics& metrics)
    : tokenizer_(std::move(tokenizer)),
      options_(std::move(options)),
      writer_(std::move(writer)),
      metrics_(metrics) {
  for (Prompt& prompt : prompts) {
    const int p = static_cast<int>(prompts_.size());
    prompts_.push_back({std::move(prompt)});
    for (int i = 0; i < options_.num_samples; ++i) {
      Choice& choice = choices_.emplace_back(*tokenizer_, options_);
      choice.index = p * options_.num_choices + i;
      choice.prompt = p;
    }
  }
  num_open_ = num_owed_ = static_cast<int>(choices_.size());
  metrics_.open_streams.Increment();
}

TokenStream::~TokenStream() {
  metrics_.open_streams.Decrement();
  if (!over_) metrics_.finished("cancelled").Increment();
}

TokenStream::Next TokenStream::push(int prompt, TokenEvent& event, Instant now) {
  PromptState& state = prompts_.at(prompt);
  Choice& choice = choices_.at(prompt * options_.num_samples + event.sample);
  if (event.finish != FinishReason::none) --num_owed_;
  if (event.known().trace) state.trace = std::move(event.details->trace);
  if (over_ || choice.finish != FinishReason::none) return Next::more;  // after a stop string
  if (event.finish > FinishReason::length) {
    if (event.finish == FinishReason::overloaded) metrics_.rejected("queue_full").Increment();
    if (event.finish == FinishReason::error) metrics_.rejected("invalid").Increment();
    fail(error_of(event), name_of(event.finish));
    return Next::failed;
  }
  if (!state.ready) state.cached = event.num_cached;
  if (!event.known().prompt_logprobs.empty())
    state.logprobs = std::move(event.details->prompt_logprobs);
  const bool was_ready =
      std::exchange(state.ready, state.ready || options_.prompt_width == 0 ||
                                     !state.logprobs.empty() || state.prompt.num_tokens <= 1);

  const bool last = event.finish != FinishReason::none;
  const bool hidden = event.finish == FinishReason::stop && !options_.include_stop;
  if (event.token >= 0 && !options_.drop_output) {
    record_gap(choice, now);
    ++choice.num_tokens;
    choice.sum_logprobs += event.logprob;
  }
  int stopped = -1;
  std::string text = through_stops(choice, take_text(choice, event, hidden), last, &stopped);
  begin(choice, state);
  choice.text += text;
  if (event.token >= 0 && options_.want_tokens && !options_.drop_output)
    keep_token(choice, event, hidden);
  if (stopped >= 0) {
    choice.finish = FinishReason::stop;
    choice.stop_string = stopped;
  } else if (last) {
    choice.finish = options_.drop_output ? FinishReason::length : event.finish;
    const auto& own = options_.stop_tokens;
    if (choice.finish == FinishReason::stop &&
        std::find(own.begin(), own.end(), event.token) != own.end())
      choice.stop_token = event.token;
  }
  if (choice.finish != FinishReason::none) --num_open_;
  emit(choice, false);
  if (!was_ready && state.ready) {
    for (Choice& other : choices_)
      if (other.prompt == prompt && other.begun) emit(other, false);
  }
  return stopped >= 0 && !last ? Next::cancel_sample : Next::more;
}

std::string TokenStream::take_text(Choice& choice, const TokenEvent& event, bool hidden) {
  std::string text;
  if (options_.drop_output) return text;
  if (event.token >= 0 && !hidden) text = choice.detokenizer.push(event.token);
  if (event.finish != FinishReason::none) text += choice.detokenizer.flush();
  return text;
}

std::string TokenStream::through_stops(Choice& choice, std::string text, bool last, int* stopped) {
  if (options_.stop.empty()) return text;
  if (!choice.unarmed.empty()) text.insert(0, std::exchange(choice.unarmed, {}));
  if (choice.num_tokens < options_.min_tokens) {
    if (last) return text;
    const size_t keep = possible_stop_start(text, options_.stop);
    choice.unarmed = text.substr(text.size() - keep);
    text.resize(text.size() - keep);
    return text;
  }
  StopMatcher::Out out = choice.stops.push(text);
  *stopped = out.stopped;
  if (last && out.stopped < 0) out.emit += choice.stops.flush();
  return std::move(out.emit);
}

void TokenStream::keep_token(Choice& choice, TokenEvent& event, bool hidden) {
  TokenOut& token = choice.tokens.emplace_back();
  token.id = event.token;
  token.logprob = event.logprob;
  token.text_offset = choice.num_chars;
  if (event.details) token.top = std::move(event.details->top);
  if (!hidden && !(options_.skip_special && tokenizer_->is_special(event.token)))
    choice.num_chars += count_chars(tokenizer_->piece(event.token));
}

// Echo: the choice's text begins with the prompt. Its tokens join once their logprobs are here.
void TokenStream::begin(Choice& choice, const PromptState& state) {
  if (choice.begun) return;
  choice.begun = true;
  if (!options_.echo) return;
  choice.text = state.prompt.text;
  if (options_.want_tokens) choice.num_chars = count_chars(state.prompt.text);
}

void TokenStream::emit(Choice& choice, bool force) {
  PromptState& state = prompts_[choice.prompt];
  if (choice.written || ((!state.ready || ranked()) && !force)) return;
  if (options_.want_prompt && !std::exchange(state.announced, true))
    writer_->prompt(choice.prompt, {state.prompt.ids, state.logprobs, options_.prompt_width});
  const bool first = !std::exchange(choice.opened, true);
  if (first && options_.echo && options_.want_tokens) echo_tokens(choice, state);
  const bool finished = choice.finish != FinishReason::none;
  if (!first && !finished && choice.text.empty()) return;  // its tokens wait for their text

  Delta delta;
  delta.choice = choice.index;
  delta.text = choice.text;
  const bool with_tokens = finished || !choice.text.empty();
  if (with_tokens) delta.tokens = choice.tokens;
  delta.finish = choice.finish;
  if (choice.stop_string >= 0) delta.stop_text = options_.stop[choice.stop_string];
  delta.stop_token = choice.stop_token;
  delta.usage = {state.prompt.num_tokens, state.cached, choice.num_tokens};
  writer_->write(delta);
  choice.written = finished;
  choice.text.clear();
  if (with_tokens) choice.tokens.clear();
}

void TokenStream::echo_tokens(Choice& choice, const PromptState& state) {
  const Prompt& prompt = state.prompt;
  const int width = options_.prompt_width;
  std::vector<TokenOut> tokens(prompt.ids.size());
  size_t bytes = 0;
  int chars = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i].id = prompt.ids[i];
    tokens[i].text_offset = chars;
    // A token that the tokeniser added (begin of text) is not in the text.
    std::string_view piece = tokenizer_->piece(prompt.ids[i]);
    // Some vocabularies begin a text with a space that is not in it.
    if (bytes == 0 && piece.starts_with(' ') && !prompt.text.starts_with(' '))
      piece.remove_prefix(1);
    if (std::string_view(prompt.text).substr(bytes, piece.size()) == piece) {
      bytes += piece.size();
      chars += count_chars(piece);
    }
    const size_t at = (i - 1) * width;
    tokens[i].has_logprob = i > 0 && width > 0 && at + width <= state.logprobs.size();
    if (!tokens[i].has_logprob) continue;
    tokens[i].logprob = state.logprobs[at].logprob;
    tokens[i].top.assign(state.logprobs.begin() + at + 1, state.logprobs.begin() + at + width);
  }
  choice.tokens.insert(choice.tokens.begin(), std::make_move_iterator(tokens.begin()),
                       std::make_move_iterator(tokens.end()));
}

// Of each prompt, in order of their new indices; the others are not shown.
std::vector<TokenStream::Choice*> TokenStream::best_choices() {
  std::vector<Choice*> out;
  for (Choice& choice : choices_) out.push_back(&choice);
  if (!ranked()) return out;
  const auto mean = [](const Choice* c) {
    const double m = c->sum_logprobs / std::max(c->num_tokens, 1);
    return std::isnan(m) ? -INFINITY : m;
  };
  std::stable_sort(out.begin(), out.end(), [&](const Choice* a, const Choice* b) {
    return a->prompt != b->prompt ? a->prompt < b->prompt : mean(a) > mean(b);
  });
  std::vector<Choice*> best;
  for (size_t i = 0; i < out.size(); ++i) {
    if (static_cast<int>(i % options_.num_samples) >= options_.num_choices) continue;
    out[i]->index = static_cast<int>(best.size());
    best.push_back(out[i]);
  }
  return best;
}

// Counted before it is told, here and in fail(): who has the answer finds it in the metrics.
void TokenStream::end(Instant now) {
  over_ = true;
  Usage usage;
  Timing timing;
  bool timed = options_.want_timing;
  for (const PromptState& state : prompts_) {
    usage.prompt += state.prompt.num_tokens;
    usage.cached += state.cached;
    timed = timed && state.trace;
    if (timed) timing.add(*state.trace);
  }
  for (const Choice& choice : choices_) usage.completion += choice.num_tokens;
  metrics_.request_seconds.Observe(to_seconds(now - options_.received));
  metrics_.request_prompt_tokens.Observe(usage.prompt);
  metrics_.request_generation_tokens.Observe(usage.completion);
  metrics_.finished(name_of(choices_.back().finish)).Increment();
  for (Choice* choice : best_choices()) emit(*choice, true);
  writer_->end(usage, timed ? &timing : nullptr);
}

bool TokenStream::flush(Instant now) {
  const int left = options_.want_timing ? num_owed_ : num_open_;
  if (!over_ && left == 0) end(now);
  return writer_->flush();
}

void TokenStream::fail(const ApiError& error, const char* reason) {
  if (std::exchange(over_, true)) return;
  metrics_.finished(reason).Increment();
  writer_->fail(error);
}

void TokenStream::record_gap(Choice& choice, Instant now) {
  if (!std::exchange(any_token_, true))
    metrics_.ttft_seconds.Observe(to_seconds(now - options_.received));
  if (choice.num_tokens > 0)
    metrics_.inter_token_seconds.Observe(to_seconds(now - choice.last_token));
  choice.last_token = now;
}

}  // namespace sluice
