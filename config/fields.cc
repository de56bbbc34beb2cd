#include "config/fields.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "config/presets.h"

namespace sluice {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;  // clang 14 does not find it out

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "1048576", "512MiB", "2 GB": a whole number and a unit.
std::optional<int64_t> parse_bytes(std::string_view text) {
  const size_t split = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = parse_number<int64_t>(text.substr(0, split));
  if (!number) return std::nullopt;
  std::string unit;
  for (const char c : text.substr(split))
    if (c != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  int64_t scale = 1;
  constexpr std::string_view letters = "kmgt";
  if (!unit.empty() && unit != "b") {
    const size_t power = letters.find(unit[0]);
    const std::string_view rest = std::string_view(unit).substr(1);
    if (power == std::string_view::npos || !(rest == "ib" || rest == "b" || rest.empty()))
      return std::nullopt;
    for (size_t i = 0; i <= power; ++i) scale *= rest == "b" ? 1000 : 1024;
  }
  int64_t result = 0;
  if (__builtin_mul_overflow(*number, scale, &result)) return std::nullopt;
  return result;
}

std::optional<bool> parse_bool(std::string_view text) {
  if (text == "true" || text == "1" || text == "on" || text == "yes") return true;
  if (text == "false" || text == "0" || text == "off" || text == "no") return false;
  return std::nullopt;
}

absl::Status check_range(const Field& f, std::string_view text, double value) {
  if (f.min == f.max || (value >= f.min && value <= f.max && !std::isnan(value)))
    return absl::OkStatus();
  return invalid_argument("{}: {} is out of range, it must be from {} to {}", f.name, text, f.min,
                          f.max);
}

absl::Status set_string(const Field& f, std::string* out, std::string_view text) {
  if (!f.choices.empty() && std::ranges::find(f.choices, text) == f.choices.end())
    return invalid_argument("{}: '{}' is not one of {}", f.name, text, fmt::join(f.choices, ", "));
  *out = text;
  return absl::OkStatus();
}

template <class T>
absl::Status set_number(const Field& f, T* out, std::string_view text) {
  std::optional<T> value;
  if constexpr (std::is_same_v<T, int64_t>)
    value = f.bytes ? parse_bytes(text) : parse_number<T>(text);
  else
    value = parse_number<T>(text);
  if (!value)
    return invalid_argument("{}: '{}' is not a {}", f.name, text,
                            f.bytes                     ? "size such as 512MiB"
                            : std::is_same_v<T, double> ? "number"
                                                        : "whole number in range");
  if (absl::Status s = check_range(f, text, static_cast<double>(*value)); !s.ok()) return s;
  *out = *value;
  return absl::OkStatus();
}

std::vector<Field> device_fields(Config& c) {
  return {
      {"model.path", &c.model.path, "Model directory (Hugging Face layout)"},
      {"model.served_name", &c.model.served_name,
       "Name clients ask for; empty: the directory's name", "--served-name"},
      {"model.chat_template", &c.model.chat_template,
       "Name of one of the model's chat templates, or file with a Jinja template to use instead"},
      {"model.trust_request_chat_template", &c.model.trust_request_chat_template,
       "Run chat templates that clients send (bounded in time and memory); off: their names only"},
      {"model.dtype",
       &c.model.dtype,
       "Weights in memory; auto: on CPU as stored, on a GPU f16 where config.json says float16 and "
       "else bf16, but fp8 weights as stored where it can; fp8: layers and experts as e4m3, "
       "quantised at load unless stored so",
       "--dtype",
       0,
       0,
       {"auto", "f32", "f16", "bf16", "fp8"}},
      {"model.load_format",
       &c.model.load_format,
       "auto: the directory's safetensors; dummy: none is read, and random weights are made on the "
       "device, of the shapes and types that config.json says: for measurements and trials",
       "--load-format",
       0,
       0,
       {"auto", "dummy"}},
      {"model.max_model_len", &c.model.max_model_len,
       "Longest prompt plus output, in tokens; 0: the model's own limit", "--max-model-len", 0,
       1 << 24},
      {"device.kind",
       &c.device.kind,
       "Where the model runs; auto: on a GPU, or else on the CPU",
       "--device",
       0,
       0,
       {"auto", "cpu", "cuda"}},
      {"device.index", &c.device.index, "Which of the visible GPUs, counted from 0", "", 0, 1023},
      {"device.plugin", &c.device.plugin,
       "File of the CUDA engine; empty: libsluice_cuda.so beside the binary or in ../lib/sluice"},
      {"device.libraries", &c.device.libraries,
       "Folder to look into first for NVIDIA's libraries; empty: the usual places"},
      {"device.plan_cache", &c.device.plan_cache,
       "Folder to keep what is measured of a GPU at the start, for the next start; empty: nowhere"},
      {"device.batch_invariant", &c.device.batch_invariant,
       "On a GPU: a request gets the same bits whatever else is in its steps; prompts take longer"},
      {"device.overlap_kernels", &c.device.overlap_kernels,
       "On a GPU of compute capability 9.0: a kernel comes to the chip while the one before it "
       "runs"},
      {"device.threads", &c.device.threads, "CPU threads; 0: the cgroup's quota", "--threads", 0,
       1024},
      {"device.isa",
       &c.device.isa,
       "Best CPU instruction set to use",
       "",
       0,
       0,
       {"auto", "amx", "avx512bf16", "avx512", "avx2", "portable"}},
  };
}

std::vector<Field> cache_fields(Config& c) {
  return {
      {"cache.block_size", &c.cache.block_size, "Tokens a KV block holds", "", 1, 256},
      {"cache.bytes",
       &c.cache.bytes,
       "Memory for the KV cache; 0: cache.memory_fraction",
       "",
       0,
       0x1p50,
       {},
       true},
      {"cache.memory_fraction", &c.cache.memory_fraction,
       "Share of the memory left beside the weights that the KV cache may take; "
       "0: 0.5, or 0.92 of a GPU's",
       "", 0, 0.95},
      {"cache.prefix_caching", &c.cache.prefix_caching,
       "Keep finished prompts' KV blocks for requests with the same beginning"},
      {"cache.dtype",
       &c.cache.dtype,
       "KV cache type; auto: fp8 where the checkpoint says so, else on CPU f32 with f32 weights "
       "and bf16 with others, on a GPU what it computes in",
       "",
       0,
       0,
       {"auto", "f32", "f16", "bf16", "fp8"}},
      {"cache.host_bytes",
       &c.cache.host_bytes,
       "Host memory for swapped requests and evicted prefixes; 0: none",
       "",
       0,
       0x1p50,
       {},
       true},
  };
}

// A choice of the scheduler: "auto" leaves it to the preset.
Field choice(std::string_view name, std::string* value, std::string_view help,
             std::vector<std::string_view> choices) {
  choices.insert(choices.begin(), "auto");
  return {name, value, help, "", 0, 0, std::move(choices)};
}

std::vector<Field> scheduler_fields(Config& c) {
  return {
      {"scheduler.preset", &c.scheduler.preset,
       "Which system's scheduling; each choice can be set alone", "", 0, 0, preset_names()},
      choice("scheduler.order", &c.scheduler.order, "Who comes first",
             {"fcfs", "fcfs_strict", "mlfq"}),
      choice("scheduler.step", &c.scheduler.step, "What a step may hold",
             {"chunked", "whole", "prefill_first", "batch", "ratio"}),
      choice("scheduler.reservation", &c.scheduler.reservation, "Blocks a request must find free",
             {"paged", "full"}),
      choice("scheduler.budget", &c.scheduler.budget, "How many tokens a step computes",
             {"fixed", "target", "split_fuse"}),
      choice("scheduler.pressure", &c.scheduler.pressure, "What happens when the cache is full",
             {"recompute", "swap", "swap_groups", "cheapest"}),
      choice("scheduler.proactive", &c.scheduler.proactive,
             "Preempt for waiting requests of a better level, swap ahead of need", {"on", "off"}),
      choice("scheduler.promotion", &c.scheduler.promotion,
             "order=mlfq: a promoted request starts again at the top, or is there for one quantum",
             {"restart", "visit"}),
      {"scheduler.max_seqs", &c.scheduler.max_seqs, "Sequences that hold cache blocks at once", "",
       1, 4096},
      {"scheduler.max_rows", &c.scheduler.max_rows, "Sequences a step computes; 0: max_seqs", "", 0,
       4096},
      {"scheduler.max_step_tokens", &c.scheduler.max_step_tokens,
       "Tokens one engine step may compute; 0: 256, or 2048 where prompts are not cut", "", 0,
       65536},
      {"scheduler.max_queue", &c.scheduler.max_queue, "Requests that may wait", "", 1, 1000000},
      {"scheduler.max_queued_tokens", &c.scheduler.max_queued_tokens,
       "Prompt tokens that may wait; 0: no limit", "", 0, 0x1p50},
      {"scheduler.max_preemptions", &c.scheduler.max_preemptions,
       "After so many preemptions a request returns with all it can need reserved", "", 0, 1000},
      {"scheduler.min_residency", &c.scheduler.min_residency,
       "Steps a request computes before it may be preempted", "", 0, 10000},
      {"scheduler.token_interval_ms", &c.scheduler.token_interval_ms,
       "budget=target: time between tokens to keep; 0: interval_factor", "", 0, 1e6},
      {"scheduler.interval_factor", &c.scheduler.interval_factor,
       "budget=target: a step may take so many times a plain decode step", "", 1, 1000},
      {"scheduler.max_prefill_steps", &c.scheduler.max_prefill_steps,
       "budget=split_fuse: steps a prompt may take", "", 1, 10000},
      {"scheduler.tile_tokens", &c.scheduler.tile_tokens,
       "Tokens that kernels compute at a time: a step that cuts a prompt ends on a multiple", "", 1,
       4096},
      {"scheduler.quantum_ms", &c.scheduler.quantum_ms,
       "order=mlfq: work of the first level, doubled for each below; 0: one decode step", "", 0,
       1e6},
      {"scheduler.promote_ms", &c.scheduler.promote_ms,
       "order=mlfq: a request without a step for so long goes first; 0: the preset's", "", 0, 1e9},
      {"scheduler.promote_growth", &c.scheduler.promote_growth,
       "order=mlfq: promote_ms grows so many times per level; 0: the preset's", "", 0, 16},
      {"scheduler.waiting_ratio", &c.scheduler.waiting_ratio,
       "step=ratio: newcomers wait to be such a share of what runs", "", 0, 100},
      {"scheduler.max_waiting_steps", &c.scheduler.max_waiting_steps,
       "step=ratio: or for so many steps", "", 1, 1000000},
      {"scheduler.max_ttft_seconds", &c.scheduler.max_ttft_seconds,
       "Refuse (503) a request whose first token is predicted later than this; 0: none", "", 0,
       1e6},
  };
}

std::vector<Field> server_fields(Config& c) {
  return {
      {"server.host", &c.server.host, "Address to listen on", "--host"},
      {"server.http_port", &c.server.http_port, "HTTP port; 0: any free one", "--port", 0, 65535},
      {"server.grpc_port", &c.server.grpc_port, "gRPC port; 0: any free one", "--grpc-port", 0,
       65535},
      {"server.io_threads", &c.server.io_threads, "Threads that serve connections", "", 1, 64},
      {"server.drain_delay_seconds", &c.server.drain_delay_seconds,
       "After SIGTERM, how long new work is still taken while readiness says no, so that load "
       "balancers notice; Ctrl-C does not wait",
       "", 0, 3600},
      {"server.drain_seconds", &c.server.drain_seconds,
       "After that, how long running requests may take", "", 0, 86400},
      {"server.stall_seconds", &c.server.stall_seconds,
       "With work but without a step for so long the engine counts as stalled: not ready, not "
       "alive, and a service manager's watchdog is not fed",
       "", 1, 86400},
      {"server.max_connections", &c.server.max_connections, "Open HTTP connections", "", 1,
       1000000},
      {"server.max_body_bytes",
       &c.server.max_body_bytes,
       "Largest request body",
       "",
       1024,
       0x1p32,
       {},
       true},
      {"server.body_timeout_seconds", &c.server.body_timeout_seconds,
       "Time a client has to send a request", "", 1, 3600},
      {"server.write_timeout_seconds", &c.server.write_timeout_seconds,
       "A client that reads nothing for so long is dropped", "", 1, 3600},
      {"server.ports_file", &c.server.ports_file,
       "File that gets the HTTP and the gRPC port in one line once the server is ready",
       "--ports-file"},
      {"server.max_n", &c.server.max_n, "Samples (n) a request may ask for", "", 1, 1024},
      {"server.record_file", &c.server.record_file,
       "File that gets times, lengths and prefix hashes of what is served, and its "
       "steps; no text; for `sluice simulate`",
       "--record"},
      {"log.level",
       &c.log.level,
       "Least severe messages to log",
       "--log-level",
       0,
       0,
       {"debug", "info", "warn", "error"}},
      {"log.format",
       &c.log.format,
       "Log lines as text or JSON objects",
       "--log-format",
       0,
       0,
       {"text", "json"}},
  };
}

// What a running daemon can change: limits that are looked up whenever they matter.
constexpr std::string_view kLive[] = {
    "scheduler.max_queue",
    "scheduler.max_queued_tokens",
    "scheduler.max_ttft_seconds",
    "server.drain_delay_seconds",
    "server.drain_seconds",
    "server.stall_seconds",
    "server.max_connections",
    "server.body_timeout_seconds",
    "server.write_timeout_seconds",
    "server.max_n",
    "log.level",
};

}  // namespace

std::vector<Field> fields_of(Config& config) {
  std::vector<Field> fields = device_fields(config);
  for (const std::vector<Field>& more :
       {cache_fields(config), scheduler_fields(config), server_fields(config)})
    fields.insert(fields.end(), more.begin(), more.end());
  for (Field& field : fields) field.live = std::ranges::find(kLive, field.name) != std::end(kLive);
  return fields;
}

absl::Status set_field(const Field& field, std::string_view text) {
  return std::visit(Overloaded{[&](std::string* out) { return set_string(field, out, text); },
                               [&](bool* out) {
                                 const auto value = parse_bool(text);
                                 if (!value)
                                   return invalid_argument("{}: '{}' is not true or false",
                                                           field.name, text);
                                 *out = *value;
                                 return absl::OkStatus();
                               },
                               [&](auto* out) { return set_number(field, out, text); }},
                    field.value);
}

std::string text_of(const Field& field) {
  return std::visit(Overloaded{[](const std::string* v) { return *v; },
                               [](const bool* v) { return std::string(*v ? "true" : "false"); },
                               [](const auto* v) { return fmt::format("{}", *v); }},
                    field.value);
}

std::string environment_name(std::string_view field_name) {
  std::string name = "SLUICE_";
  for (const char c : field_name)
    name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

}  // namespace sluice
