#include "bench/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "bench/statistics.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

constexpr size_t kBytes = size_t{1} << 20;
constexpr int kMinRuns = 3;

struct Text {
  std::string name, text;
};

// Words drawn with the frequencies of a language: the n-th one in proportion to 1 / n.
std::string drawn_from(const std::vector<std::string_view>& words, std::string_view between,
                       size_t bytes) {
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) {
    const double u = double(mix64(i) >> 11) * 0x1p-53;
    const auto at = static_cast<size_t>(std::pow(double(words.size()), u)) - 1;
    text += words[std::min(at, words.size() - 1)];
    text += i % 12 == 11 ? ".\n" : between;
  }
  return text;
}

std::vector<Text> made_up() {
  const std::vector<std::string_view> english = {
      "the",   "of",    "and",     "to",       "in",        "a",          "is",        "that",
      "for",   "it",    "as",      "was",      "with",      "be",         "by",        "on",
      "not",   "he",    "I",       "this",     "are",       "or",         "his",       "from",
      "water", "began", "another", "children", "something", "understood", "carriage",  "London",
      "don't", "1984",  "3.14",    "(see",     "below)",    "e.g.",       "well-known"};
  const std::vector<std::string_view> code = {
      "return", "x",    "=",  "if",      "(",      ")",   "{",   "}",
      "int",    "for",  "->", "nullptr", "size_t", "i++", "[0]", "std::vector<int>",
      "&&",     "0x1f", "//", "\n    "};
  const std::vector<std::string_view> other = {"\u7684",
                                               "\u662f",
                                               "\u4e00\u4e2a",
                                               "\u6211\u4eec",
                                               "\u3002",
                                               "\u0432",
                                               "\u043d\u0435",
                                               "\u0447\u0442\u043e",
                                               "\u043e\u043d\u0438",
                                               "\U0001F600",
                                               "\u0646\u0627\u0645"};
  return {{"English", drawn_from(english, " ", kBytes)},
          {"code", drawn_from(code, " ", kBytes)},
          {"other scripts", drawn_from(other, "", kBytes)},
          {"one letter", std::string(kBytes, 'a')},
          {"spaces", std::string(kBytes, ' ')}};
}

// Of the median of some runs.
template <class F>
double megabytes_per_second(size_t bytes, double seconds, F run) {
  std::vector<double> times;
  for (double total = 0; total < seconds || int(times.size()) < kMinRuns; total += times.back()) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return double(bytes) / percentile(times, 50) / 1e6;
}

int fail(std::string_view text) {
  fmt::print(stderr, "sluice: {}\n", text);
  return 1;
}

}  // namespace

int bench_tokenizer(const BenchTokenizerOptions& o) {
  const auto loaded = Tokenizer::load(o.model_dir);
  if (!loaded.ok()) return fail(message_of(loaded.status()));
  const Tokenizer& tokenizer = **loaded;
  std::vector<Text> texts;
  if (o.file.empty()) {
    texts = made_up();
  } else {
    std::ifstream in(o.file, std::ios::binary);
    std::string text(std::istreambuf_iterator<char>(in), {});
    if (!in || text.empty()) return fail(fmt::format("{} cannot be read, or is empty", o.file));
    texts.push_back({o.file, std::move(text)});
  }
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  fmt::print("{:<16}{:>10}{:>14}{:>14}{:>14}\n", "text", "bytes", "bytes/token", "encode MB/s",
             "decode MB/s");
  for (const Text& t : texts) {
    std::vector<TokenId> ids;
    const double encode = megabytes_per_second(t.text.size(), o.seconds,
                                               [&] { ids = tokenizer.encode(t.text, false); });
    std::string back;
    const double made = megabytes_per_second(t.text.size(), o.seconds,
                                             [&] { back = decode(tokenizer, ids, false); });
    const double per_token = ids.empty() ? 0 : double(t.text.size()) / double(ids.size());
    fmt::print("{:<16}{:>10}{:>14.2f}{:>14.1f}{:>14.1f}\n", t.name, t.text.size(), per_token,
               encode, made);
    std::fflush(stdout);
    lines.push_back({{"text", t.name},
                     {"bytes", t.text.size()},
                     {"tokens", ids.size()},
                     {"encode_mb_per_s", encode},
                     {"decode_mb_per_s", made}});
  }
  if (o.json_path.empty()) return 0;
  std::ofstream out(o.json_path);
  out << nlohmann::ordered_json{{"model", o.model_dir}, {"lines", lines}}.dump(2) << "\n";
  if (!out.flush()) return fail(fmt::format("cannot write {}", o.json_path));
  return 0;
}

}  // namespace sluice
