#pragma once

#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/presets.h"
#include "engine/engine.h"
#include "server/frontend.h"
#include "tests/sim/ledger.h"

// A whole server without a model: a tokeniser of single characters over the ledger runner.
namespace sluice {

// Ids 0 to 94 are the printable ASCII characters; the others are what tests need of tokens that are
// not a character each.
class CharTokenizer final : public Tokenizer {
 public:
  static constexpr TokenId kNewline = 95, kHalf1 = 96, kHalf2 = 97, kEos = 98, kBos = 99,
                           kHello = 100;
  static constexpr int kVocab = 101;
  static constexpr std::string_view kTooMuch = "<too much>";  // for the memory that there is

  CharTokenizer() {
    for (int i = 0; i < 95; ++i) pieces_.push_back(std::string(1, static_cast<char>(32 + i)));
    for (const char* piece : {"\n", "\xC3", "\xA9", "<eos>", "<bos>", "hello"})
      pieces_.push_back(piece);
  }

  std::vector<TokenId> encode(std::string_view text, bool add_special) const override {
    if (text == kTooMuch) throw std::bad_alloc();
    std::vector<TokenId> ids;
    if (add_special) ids.push_back(kBos);
    for (size_t i = 0; i < text.size(); ++i) {
      const auto c = static_cast<unsigned char>(text[i]);
      if (text.substr(i).starts_with("<eos>")) {
        ids.push_back(kEos);
        i += 4;
      } else if (c >= 32 && c < 127) {
        ids.push_back(c - 32);
      } else {
        ids.push_back(c == 0xC3 ? kHalf1 : c == 0xA9 ? kHalf2 : kNewline);
      }
    }
    return ids;
  }
  std::string_view piece(TokenId id) const override {
    return id >= 0 && id < kVocab ? std::string_view(pieces_[id]) : std::string_view();
  }
  bool is_special(TokenId id) const override { return id == kEos || id == kBos; }
  std::optional<TokenId> find(std::string_view content) const override {
    for (TokenId id = 0; id < kVocab; ++id)
      if (pieces_[id] == content) return id;
    return std::nullopt;
  }
  int vocab_size() const override { return kVocab; }

  static TokenId of(char c) { return c - 32; }
  static std::vector<TokenId> ids(std::string_view text) {
    return CharTokenizer().encode(text, false);
  }
  // What a client sees of ids that stand for characters.
  static std::string text(const std::vector<TokenId>& ids) {
    std::string out;
    const CharTokenizer tokenizer;
    for (const TokenId id : ids)
      if (!tokenizer.is_special(id)) out += tokenizer.piece(id);
    return out;
  }

 private:
  std::vector<std::string> pieces_;
};

constexpr std::string_view kTestTemplate =
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";

struct WorldOptions {
  int max_model_len = 512;
  int num_blocks = 4096;
  int max_seqs = 64;
  int max_queue = 64;
  bool trust_request_chat_template = false;
  int vocab = 95;      // of the ledger: printable characters only, no end of text
  Nanos step_time{0};  // above 0: a step takes this long
  int io_threads = 2;
  double max_ttft_seconds = 0;
  Config::Server server;
};

struct World {
  explicit World(const WorldOptions& o)
      : metrics("test"), hub(o.io_threads + 1), pool(o.num_blocks, 16) {
    config.scheduler.max_seqs = o.max_seqs;
    config.scheduler.max_queue = o.max_queue;
    config.model.trust_request_chat_template = o.trust_request_chat_template;
    config.scheduler.max_ttft_seconds = o.max_ttft_seconds;
    config.server = o.server;
    config.server.http_port = 0;
    config.server.io_threads = o.io_threads;
    LedgerOptions ledger;
    ledger.num_blocks = o.num_blocks;
    ledger.num_slots = o.max_seqs;
    ledger.vocab = o.vocab;
    ledger.eos_tokens = {CharTokenizer::kEos};
    ledger.sleep = o.step_time.count() > 0;
    ledger.step_time = o.step_time;
    CHECK(apply_preset(config.scheduler).ok());
    const auto policy = Policy::from(config.scheduler, config.cache);
    CHECK(policy.ok());
    engine = std::make_unique<Engine>(
        std::make_unique<Scheduler>(*policy, CostModel(), pool, nullptr, 1, ledger.eos_tokens,
                                    o.max_model_len),
        std::make_unique<LedgerRunner>(ledger), hub, metrics, 4 * o.max_queue);
    ModelInfo info;
    info.name = "test/model";
    info.created = 1700000000;
    info.max_model_len = o.max_model_len;
    info.vocab_size = CharTokenizer::kVocab;
    info.tokenizer = std::make_shared<CharTokenizer>();
    info.chat_template = ChatTemplate::compile(kTestTemplate, "<bos>", "<eos>").value();
    frontend = std::make_unique<Frontend>(std::move(info), config, *engine, hub, metrics);
  }
  void start() {
    frontend->set_ready();
    engine->start();
  }

  // What the ledger says to a text prompt, as text.
  std::string answer(std::string_view prompt, uint64_t seed, int max_tokens, int sample = 0,
                     bool add_special = true) const {
    SamplingParams sampling;
    sampling.seed = seed;
    sampling.max_tokens = max_tokens;
    return CharTokenizer::text(ledger_alone(CharTokenizer().encode(prompt, add_special), sampling,
                                            sample, {CharTokenizer::kEos}, 95));
  }

  Config config;
  Metrics metrics;
  StreamHub hub;
  BlockPool pool;
  std::unique_ptr<Engine> engine;  // before the front end goes, after the hub came
  std::unique_ptr<Frontend> frontend;
};

}  // namespace sluice
