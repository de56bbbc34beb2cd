#include "bench/workload.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>

#include "engine/recording.h"

namespace sluice {
namespace {

using Rng = std::mt19937_64;

struct Lengths {
  int prompt = 1, output = 1;
};
using Draw = Lengths (*)(Rng&, const WorkloadOptions&);

int uniform(Rng& rng, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(rng);
}
double unit(Rng& rng) { return std::uniform_real_distribution<double>()(rng); }
int positive(double v) { return int(std::clamp(std::round(v), 1.0, 1e8)); }
int lognormal(Rng& rng, double mu, double sigma) {
  return positive(std::lognormal_distribution<double>(mu, sigma)(rng));
}
int normal(Rng& rng, double mean, double deviation) {
  return positive(std::normal_distribution<double>(mean, deviation)(rng));
}

// Log-normal lengths, drawn again until they are within the bounds. The parameters below are those
// of the distribution before the cut, solved numerically so that it has the stated means after it.
struct Pair {
  double prompt_mu, prompt_sigma, output_mu, output_sigma;
  int max_prompt, max_total;
};
Lengths draw_pair(Rng& rng, const Pair& p) {
  for (;;) {
    const Lengths l = {lognormal(rng, p.prompt_mu, p.prompt_sigma),
                       lognormal(rng, p.output_mu, p.output_sigma)};
    if (l.prompt <= p.max_prompt && l.prompt + l.output <= p.max_total) return l;
  }
}

// A length by the inverse of its distribution, linear between the given quantiles.
struct Quantile {
  double at;
  int value;
};
template <size_t N>
int draw_quantile(Rng& rng, const std::array<Quantile, N>& table) {
  const double u = unit(rng);
  size_t i = 1;
  while (i + 1 < N && table[i].at < u) ++i;
  const Quantile &a = table[i - 1], &b = table[i];
  return positive(a.value + (b.value - a.value) * (u - a.at) / (b.at - a.at));
}

// Of the 30,731 conversations of the openchat_sharegpt4 trace that Sarathi-Serve (OSDI'24) replays,
// at most 8,192 tokens long. Prompt and output are all but independent (rank correlation 0.05).
constexpr std::array<Quantile, 25> kSharegpt4Prompt = {
    {{0, 1},      {.01, 12},   {.02, 16},   {.05, 29},   {.10, 74},   {.15, 181},  {.20, 382},
     {.25, 580},  {.30, 777},  {.35, 973},  {.40, 1203}, {.45, 1457}, {.50, 1730}, {.55, 2060},
     {.60, 2401}, {.65, 2799}, {.70, 3235}, {.75, 3735}, {.80, 4278}, {.85, 4918}, {.90, 5696},
     {.95, 6563}, {.98, 7164}, {.99, 7434}, {1, 8141}}};
constexpr std::array<Quantile, 25> kSharegpt4Output = {
    {{0, 2},     {.01, 6},   {.02, 19},  {.05, 44},  {.10, 84},  {.15, 130}, {.20, 181},
     {.25, 228}, {.30, 271}, {.35, 312}, {.40, 346}, {.45, 381}, {.50, 415}, {.55, 453},
     {.60, 493}, {.65, 534}, {.70, 581}, {.75, 628}, {.80, 683}, {.85, 754}, {.90, 834},
     {.95, 920}, {.98, 975}, {.99, 998}, {1, 1024}}};

// The 11,129 of them with a prompt of at most 1,024 tokens and at most 2,048 in all, which is how
// FastServe's artifact cuts ShareGPT (rank correlation -0.04).
constexpr std::array<Quantile, 25> kShortSharegpt4Prompt = {
    {{0, 1},     {.01, 8},   {.02, 11},   {.05, 15},  {.10, 23},  {.15, 31},  {.20, 43},
     {.25, 61},  {.30, 86},  {.35, 117},  {.40, 165}, {.45, 226}, {.50, 297}, {.55, 378},
     {.60, 453}, {.65, 523}, {.70, 596},  {.75, 667}, {.80, 731}, {.85, 810}, {.90, 878},
     {.95, 949}, {.98, 993}, {.99, 1009}, {1, 1024}}};
constexpr std::array<Quantile, 25> kShortSharegpt4Output = {
    {{0, 2},     {.01, 4},   {.02, 14},  {.05, 33},  {.10, 62},  {.15, 91},  {.20, 129},
     {.25, 179}, {.30, 230}, {.35, 283}, {.40, 326}, {.45, 362}, {.50, 399}, {.55, 435},
     {.60, 475}, {.65, 519}, {.70, 565}, {.75, 608}, {.80, 661}, {.85, 731}, {.90, 816},
     {.95, 906}, {.98, 967}, {.99, 994}, {1, 1024}}};

Lengths orca(Rng& rng, const WorkloadOptions&) {
  const int prompt = uniform(rng, 32, 512);
  return {prompt, uniform(rng, 1, 128)};
}
Lengths sharegpt(Rng& rng, const WorkloadOptions&) {
  return draw_pair(rng, {4.51009, 1.6, 5.42070, 1.1, 1024, 2048});
}
Lengths alpaca(Rng& rng, const WorkloadOptions&) {
  return draw_pair(rng, {2.78183, 0.6, 3.66619, 0.9, 512, 1024});
}
Lengths sharegpt4(Rng& rng, const WorkloadOptions&) {
  for (;;) {
    const int prompt = draw_quantile(rng, kSharegpt4Prompt);
    const Lengths l = {prompt, draw_quantile(rng, kSharegpt4Output)};
    if (l.prompt + l.output <= 8192) return l;
  }
}
Lengths short_sharegpt4(Rng& rng, const WorkloadOptions&) {
  const int prompt = draw_quantile(rng, kShortSharegpt4Prompt);
  return {prompt, draw_quantile(rng, kShortSharegpt4Output)};
}
Lengths arxiv(Rng& rng, const WorkloadOptions&) {
  return draw_pair(rng, {8.96890, 0.64039, 5.33754, 0.45160, 16384, 16384});
}
Lengths fastgen(Rng& rng, const WorkloadOptions&) {
  const int prompt = normal(rng, 2600, 0.3 * 2600);
  return {prompt, normal(rng, 60, 0.3 * 60)};
}
Lengths fastgen_short(Rng& rng, const WorkloadOptions&) {
  const int prompt = normal(rng, 1200, 0.3 * 1200);
  return {prompt, normal(rng, 128, 0.3 * 128)};
}
// P(total = k) ~ k^-0.4 for k in [1024, 4096]: by inversion of the continuous law.
Lengths zipf(Rng& rng, const WorkloadOptions&) {
  constexpr double kPower = 1 - 0.4;
  const double low = std::pow(1024, kPower), high = std::pow(4096, kPower);
  const int total = positive(std::pow(low + (high - low) * unit(rng), 1 / kPower));
  const int output = positive(total / 11.0);
  return {total - output, output};
}
Lengths ratio(Rng&, const WorkloadOptions& o) {
  const int output = std::min(o.total - 1, positive(o.total / (1 + o.ratio)));
  return {o.total - output, output};
}
Lengths translation(Rng& rng, const WorkloadOptions& o) {
  Lengths l = draw_pair(rng, {3.20774, 0.5, 3.20774, 0.5, 256, 512});
  l.prompt += o.prefix;
  return l;
}

struct Kind {
  WorkloadKind kind;
  Draw draw;
  Arrivals arrivals = Arrivals::poisson;
};
const std::array kKinds = {
    Kind{{"orca-u", "prompt U(32, 512), output U(1, 128): Orca (OSDI'22)"}, orca},
    Kind{{"sharegpt-2turn",
          "log-normal, means 161 and 338, prompt <= 1024, total <= 2048: first two turns of "
          "ShareGPT, as vLLM (SOSP'23) and FastServe (NSDI'26) sample them"},
         sharegpt},
    Kind{{"alpaca", "log-normal, means 19.3 and 58.5 as vLLM (SOSP'23) reports; sigmas assumed"},
         alpaca},
    Kind{{"sharegpt4-8k",
          "quantiles of openchat_sharegpt4, medians 1730 and 415, total <= 8192: Sarathi-Serve "
          "(OSDI'24)"},
         sharegpt4},
    Kind{{"sharegpt4-2k",
          "quantiles of those with prompt <= 1024 and total <= 2048, medians 297 and 399: cut as "
          "FastServe's artifact (NSDI'26) cuts ShareGPT"},
         short_sharegpt4},
    Kind{{"arxiv-like",
          "log-normal, prompt median 7059 and p90 12985, output median 208, total <= 16384: "
          "Sarathi-Serve (OSDI'24)"},
         arxiv},
    Kind{{"fastgen", "prompt N(2600, 30 %), output N(60, 30 %): DeepSpeed-FastGen"},
         fastgen,
         Arrivals::closed},
    Kind{{"fastgen-short", "prompt N(1200, 30 %), output N(128, 30 %): DeepSpeed-FastGen"},
         fastgen_short,
         Arrivals::closed},
    Kind{{"sarathi-zipf", "total Zipf(0.4) in 1024 to 4096, prompt:output 10: SARATHI (2023)"},
         zipf,
         Arrivals::batch},
    Kind{{"ratio-sweep", "one length: --ratio prompt to output, --total-len both: FastServe"},
         ratio},
    Kind{{"chat-sessions",
          "turns that extend each other; new text and answers as sharegpt-2turn; 5.75 turns, 27 % "
          "with one, as CachedAttention (ATC'24) reports of ShareGPT; think time exponential, "
          "assumed"},
         sharegpt},
    Kind{{"short-plus-long", "sharegpt-2turn, and one prompt of --long-len tokens at --long-at"},
         sharegpt},
    Kind{{"shared-prefix",
          "--prefix-tokens in common, then log-normal 28 and 28: vLLM's translation (80 or 341); "
          "own lengths assumed"},
         translation},
    Kind{{"two-tenants", "sharegpt-2turn, tenant 0 ten times as often as tenant 1"}, sharegpt},
};

const Kind* find_kind(std::string_view name) {
  const auto it = std::ranges::find_if(kKinds, [&](const Kind& k) { return k.kind.name == name; });
  return it == kKinds.end() ? nullptr : &*it;
}

absl::Status check(const WorkloadOptions& o) {
  if (!o.lengths.empty() && !o.trace.empty())
    return invalid_argument("--lengths and --trace: give one of them");
  if (!o.trace.empty() && o.scale != 1)
    return invalid_argument("--scale: a trace keeps its lengths, which its blocks depend on");
  if (o.lengths.empty() && o.trace.empty() && o.prompt_len == 0 && !find_kind(o.name)) {
    std::string names;
    for (const Kind& k : kKinds)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", k.kind.name);
    return invalid_argument("--workload: '{}' is not one of {}", o.name, names);
  }
  const auto within = [](const char* option, double v, double min, double max) {
    if (v >= min && v <= max) return absl::OkStatus();
    return invalid_argument("{}: {} is not from {} to {}", option, v, min, max);
  };
  const Arrivals arrivals = standard_arrivals(o);
  const bool open = arrivals == Arrivals::poisson || arrivals == Arrivals::gamma;
  const bool as_recorded = !o.trace.empty() && o.rate == 0;
  for (const absl::Status& status : {
           within("--requests", o.requests, 1, 1e8),
           within("--seconds", o.seconds, 0, 1e9),
           open && !as_recorded ? within("--rates", o.rate, 1e-6, 1e6) : absl::OkStatus(),
           within("--cv", o.cv, 0.01, 100),
           within("--clients", o.clients, 1, 1e6),
           within("--max-context", o.max_context, 2, 1 << 24),
           within("--think", o.think, 0, 1e6),
           within("--ratio", o.ratio, 1e-3, 1e3),
           within("--total-len", o.total, 2, 1 << 24),
           within("--prefix-tokens", o.prefix, 0, 1 << 20),
           within("--long-len", o.long_prompt, 0, 1 << 24),
           within("--scale", o.scale, 1e-4, 1e4),
       }) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// The first line may be a header; more columns than two may follow.
absl::StatusOr<std::vector<Lengths>> read_lengths(const std::string& path) {
  std::ifstream file(path);
  if (!file) return not_found("--lengths: cannot read {}", path);
  std::vector<Lengths> lengths;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    Lengths l;
    if (std::sscanf(line.c_str(), "%d,%d", &l.prompt, &l.output) == 2 && l.prompt > 0 &&
        l.output > 0) {
      lengths.push_back(l);
    } else if (number > 1 && !line.empty()) {
      return invalid_argument("--lengths: {} line {}: expected prompt,output", path, number);
    }
  }
  if (lengths.empty()) return invalid_argument("--lengths: {} has no lengths", path);
  return lengths;
}

// Turns of one conversation: each prompt is all that was said before, and something new.
void add_conversation(const WorkloadOptions& o, Rng& rng, int most, Workload& w) {
  constexpr double kOneTurn = 0.27, kMeanTurns = 5.75;
  int turns = 1;
  if (unit(rng) >= kOneTurn) {
    const double more = (kMeanTurns - kOneTurn) / (1 - kOneTurn) - 2;  // geometric, from 0
    turns = 2 + std::geometric_distribution<int>(1 / (1 + more))(rng);
  }
  const uint64_t id = w.requests.size() + 1;
  int history = 0;
  for (int t = 0; t < std::min(turns, most); ++t) {
    SimRequest r;
    const Lengths l = sharegpt(rng, o);
    r.prompt = history + l.prompt;
    r.output = l.output;
    const double think = std::exponential_distribution<double>(1)(rng);
    if (t > 0 && r.prompt + r.output > o.max_context) return;
    if (t > 0) {
      r.follows = true;
      r.arrival = o.think * think;
      w.requests.back().next = int(w.requests.size());
    }
    r.content = r.session = id;
    history = r.prompt + r.output;
    w.requests.push_back(r);
  }
}

absl::Status add_requests(const WorkloadOptions& o, int count, Workload& w) {
  Rng rng(mix64(o.seed, 1));
  std::vector<Lengths> given;
  if (o.prompt_len > 0) given.push_back({o.prompt_len, o.output_len});
  if (!o.lengths.empty()) {
    auto read = read_lengths(o.lengths);
    if (!read.ok()) return read.status();
    given = *std::move(read);
  }
  w.requests.reserve(size_t(count));
  const Kind* kind = find_kind(o.name);
  while (int(w.requests.size()) < count) {
    const size_t i = w.requests.size();
    if (w.name == "chat-sessions") {
      add_conversation(o, rng, count - int(i), w);
      continue;
    }
    SimRequest r;
    const Lengths l = given.empty() ? kind->draw(rng, o) : given[i % given.size()];
    r.prompt = l.prompt;
    r.output = l.output;
    r.content = i + 1;
    if (w.name == "shared-prefix") r.shared = o.prefix;
    if (w.name == "two-tenants") r.tenant = unit(rng) * 11 < 10 ? 0 : 1;
    w.requests.push_back(r);
  }
  if (w.name == "two-tenants") w.tenants = 2;
  return absl::OkStatus();
}

// Times of those that follow none. Drawn apart from the lengths and at rate 1, so that another rate
// meets the same requests in the same rhythm.
void add_arrivals(const WorkloadOptions& o, Workload& w) {
  const Arrivals kind = standard_arrivals(o);
  if (kind == Arrivals::closed) w.clients = o.clients;
  Rng rng(mix64(o.seed, 2));
  std::exponential_distribution<double> exponential(1);
  std::gamma_distribution<double> gamma(1 / (o.cv * o.cv), o.cv * o.cv);
  double time = 0;
  const auto first_turns =
      double(std::ranges::count_if(w.requests, [](const SimRequest& r) { return !r.follows; }));
  const double rate = o.rate * first_turns / double(w.requests.size());
  for (SimRequest& r : w.requests) {
    if (r.follows) continue;
    if (kind == Arrivals::poisson) time += exponential(rng) / rate;
    if (kind == Arrivals::gamma) time += gamma(rng) / rate;
    r.arrival = time;
  }
}

absl::Status add_recording(const WorkloadOptions& o, Workload& w) {
  auto read = read_recording(o.trace);
  if (!read.ok()) return annotate(read.status(), "--trace");
  w.block_tokens = read->header.block_size;
  for (const RecordedRequest& recorded : read->requests) {
    if (recorded.refused) {
      ++w.skipped;
      continue;
    }
    SimRequest r;
    r.arrival = recorded.at;
    r.prompt = recorded.prompt;
    r.output = std::max(1, recorded.output);
    r.samples = recorded.samples;
    r.tenant = recorded.tenant;
    r.priority = recorded.priority;
    r.session = recorded.session;
    r.content = mix64(w.requests.size() + 1, o.seed);  // apart from the blocks' identities
    r.first_block = w.blocks.size();
    r.num_blocks = int(recorded.blocks.size());
    w.blocks.insert(w.blocks.end(), recorded.blocks.begin(), recorded.blocks.end());
    w.tenants = std::max(w.tenants, int(r.tenant) + 1);
    w.requests.push_back(r);
  }
  if (w.requests.empty()) return invalid_argument("--trace: {} has no requests", o.trace);
  if (o.rate > 0 && w.requests.size() > 1) {
    const double first = w.requests.front().arrival, span = w.requests.back().arrival - first;
    const double scale = span > 0 ? double(w.requests.size() - 1) / (o.rate * span) : 0;
    for (SimRequest& r : w.requests) r.arrival = (r.arrival - first) * scale;
  }
  return absl::OkStatus();
}

void scale_lengths(double scale, Workload& w) {
  for (SimRequest& r : w.requests) {
    r.prompt = positive(r.prompt * scale);
    r.output = positive(r.output * scale);
    r.shared = int(std::round(r.shared * scale));
  }
}

std::string_view name_of(const WorkloadOptions& o) {
  if (!o.lengths.empty()) return "lengths";
  if (!o.trace.empty()) return "trace";
  return o.prompt_len > 0 ? "fixed" : std::string_view(o.name);
}

}  // namespace

std::vector<WorkloadKind> workload_kinds() {
  std::vector<WorkloadKind> out;
  for (const Kind& k : kKinds) out.push_back(k.kind);
  return out;
}

Arrivals standard_arrivals(const WorkloadOptions& o) {
  if (o.arrivals != Arrivals::standard) return o.arrivals;
  const Kind* kind = find_kind(name_of(o));
  return kind ? kind->arrivals : Arrivals::poisson;
}

absl::StatusOr<Workload> make_workload(const WorkloadOptions& o) {
  if (absl::Status status = check(o); !status.ok()) return status;
  Workload w;
  w.name = name_of(o);
  if (w.name == "trace") {
    if (absl::Status status = add_recording(o, w); !status.ok()) return status;
    if (standard_arrivals(o) == Arrivals::closed) w.clients = o.clients;
  } else {
    const int count =
        o.seconds > 0 ? std::min(o.requests, positive(o.rate * o.seconds)) : o.requests;
    if (absl::Status status = add_requests(o, count, w); !status.ok()) return status;
    add_arrivals(o, w);
  }
  if (w.name == "short-plus-long" && o.long_prompt > 0) {
    SimRequest r;
    r.arrival = o.long_at >= 0 ? o.long_at : w.requests.back().arrival / 2;
    r.prompt = o.long_prompt;
    r.output = 128;
    r.is_long = true;
    r.content = w.requests.size() + 1;
    w.requests.push_back(r);
  }
  if (o.scale != 1) scale_lengths(o.scale, w);
  for (size_t i = 0; i < w.requests.size(); ++i) {
    if (!w.requests[i].follows) w.order.push_back(int(i));
  }
  std::ranges::stable_sort(w.order, {}, [&](int i) { return w.requests[size_t(i)].arrival; });
  return w;
}

}  // namespace sluice
