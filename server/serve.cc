#include "server/serve.h"

#include <signal.h>
#include <string.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include "base/log.h"
#include "base/metrics.h"
#include "base/version.h"
#include "config/presets.h"
#include "engine/build.h"
#include "server/frontend.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/stream_hub.h"
#include "text/chat_template.h"
#include "text/self_test.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// SIGTERM and SIGINT, taken one at a time by the main thread. Blocked before any thread exists, so
// that every thread inherits it; a client's closed socket is an error code, not a SIGPIPE.
class Signals {
 public:
  Signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }
  // The signal, or 0 when none came in time.
  int wait(std::chrono::milliseconds timeout) const {
    const timespec time{timeout.count() / 1000, (timeout.count() % 1000) * 1000000};
    return std::max(sigtimedwait(&set_, nullptr, &time), 0);
  }

 private:
  sigset_t set_;
};

absl::StatusOr<std::optional<ChatTemplate>> load_template(const Config::Model& model,
                                                          const ModelInfo& info,
                                                          const ModelConfig& config) {
  absl::StatusOr<ChatTemplate> own = ChatTemplate::load(model.path);
  const bool has_none = own.status().code() == absl::StatusCode::kNotFound;
  if (model.chat_template.empty()) {
    if (own.ok()) return std::optional<ChatTemplate>(*std::move(own));
    if (has_none) return std::optional<ChatTemplate>();
    return own.status();
  }
  std::ifstream file(model.chat_template);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file && text.empty()) {
    own = ChatTemplate::load(model.path, model.chat_template);
    if (!own.ok())
      return annotate(own.status(),
                      fmt::format("model.chat_template: no file {}", model.chat_template));
    return std::optional<ChatTemplate>(*std::move(own));
  }
  const auto piece = [&](std::optional<TokenId> id) {
    return id ? std::string(info.tokenizer->piece(*id)) : std::string();
  };
  const std::optional<TokenId> eos =
      config.eos_ids.empty() ? std::nullopt : std::optional(config.eos_ids.front());
  absl::StatusOr<ChatTemplate> given =
      own.ok() ? own->with_source(text)
               : ChatTemplate::compile(text, piece(config.bos_id), piece(eos));
  if (!given.ok()) return annotate(given.status(), model.chat_template);
  return std::optional<ChatTemplate>(*std::move(given));
}

absl::StatusOr<ModelInfo> describe(const Config& config, const ServedModel& model) {
  ModelInfo info;
  info.name = model.name();
  info.created = std::chrono::duration_cast<std::chrono::seconds>(
                     std::chrono::system_clock::now().time_since_epoch())
                     .count();
  info.max_model_len = model.max_model_len();
  info.vocab_size = model.config().vocab_size;

  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::load(config.model.path);
  if (!tokenizer.ok()) return tokenizer.status();
  info.tokenizer = *std::move(tokenizer);
  if (absl::Status s = self_test(*info.tokenizer); !s.ok())
    return annotate(s, config.model.path + "/tokenizer.json");
  if (absl::Status s = check_vocabulary(*info.tokenizer, info.vocab_size); !s.ok())
    return annotate(s, config.model.path);
  auto chat_template = load_template(config.model, info, model.config());
  if (!chat_template.ok()) return chat_template.status();
  info.chat_template = *std::move(chat_template);

  const GenerationDefaults& defaults = model.config().generation;
  info.temperature = defaults.temperature;
  info.top_p = defaults.top_p;
  info.min_p = defaults.min_p;
  info.repetition_penalty = defaults.repetition_penalty;
  info.top_k = defaults.top_k;
  if (defaults.do_sample == false) info.temperature = 0;
  return info;
}

absl::Status write_ports(const std::string& path, int http, int grpc) {
  // Renamed into place: a reader sees both ports or no file.
  const std::string temporary = path + ".new";
  {
    std::ofstream file(temporary);
    file << http << " " << grpc << "\n";
    if (!file.flush()) return internal_error("server.ports_file: cannot write {}", temporary);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    return internal_error("server.ports_file: cannot write {}", path);
  return absl::OkStatus();
}

// Runs until a signal has been answered with a drain. gRPC's health follows readiness.
void run_until_drained(const Config& config, const Signals& signals, Frontend& frontend,
                       HttpServer& http, GrpcServer& grpc, Engine& engine) {
  constexpr std::chrono::milliseconds kPoll(500);
  bool serving = false;
  int signal = 0;
  while (signal == 0) {
    const Readiness readiness = frontend.readiness();
    if (readiness.ready != serving) {
      serving = readiness.ready;
      grpc.set_serving(serving);
      if (!serving) log_error("not ready: {}", readiness.reason);
    }
    signal = signals.wait(kPoll);
  }
  log_info("{}: draining, running requests have {} s", strsignal(signal),
           config.server.drain_seconds);
  frontend.begin_drain();
  grpc.set_serving(false);
  http.begin_drain();
  std::jthread impatient([&](std::stop_token stop) {
    while (!stop.stop_requested()) {
      if (signals.wait(std::chrono::milliseconds(100)) == 0) continue;
      log_warn("second signal: ending the drain now");
      engine.drain(Clock::now());
      return;
    }
  });
  engine.drain(Clock::now() + std::chrono::seconds(config.server.drain_seconds));
}

}  // namespace

absl::Status serve(const Config& wanted) {
  Config config = wanted;
  if (absl::Status s = apply_preset(config.scheduler); !s.ok()) return s;
  const Signals signals;
  init_log(config.log.level, config.log.format);
  log_info("sluice {}: loading {}", kVersion, config.model.path);
  const auto began = Clock::now();

  absl::StatusOr<std::unique_ptr<ServedModel>> loaded = ServedModel::load(config);
  if (!loaded.ok()) return loaded.status();
  ServedModel& model = **loaded;
  absl::StatusOr<ModelInfo> info = describe(config, model);
  if (!info.ok()) return info.status();
  model.warm_up();

  Metrics metrics(model.name());
  metrics.set_cache_config(config.cache.block_size, model.plan().num_blocks);
  metrics.set_block_bytes(model.plan().needs.block_bytes);
  StreamHub hub(config.server.io_threads + 1);
  const std::unique_ptr<Engine> engine = model.make_engine(hub, metrics);
  Frontend frontend(*std::move(info), config, *engine, hub, metrics);
  HttpServer http(config.server, frontend);
  if (absl::Status s = http.start(); !s.ok()) return s;
  GrpcServer grpc(config.server, frontend, config.server.io_threads);
  if (absl::Status s = grpc.start(); !s.ok()) return s;
  // Nothing more can be computed. Load balancers are told before the process ends, and what has
  // been computed goes out.
  model.on_device_failure([&] {
    constexpr std::chrono::seconds kLastWords(1);
    frontend.set_failed();
    grpc.set_serving(false);
    std::this_thread::sleep_for(kLastWords);
  });
  engine->start();
  frontend.set_ready();
  log_info("ready after {:.2f} s: {} on {}, HTTP {}:{}, gRPC {}:{}",
           std::chrono::duration<double>(Clock::now() - began).count(), model.name(),
           model.device_name(), config.server.host, http.port(), config.server.host, grpc.port());
  if (!config.server.ports_file.empty()) {
    grpc.set_serving(true);  // who waits for the file may ask at once
    if (absl::Status s = write_ports(config.server.ports_file, http.port(), grpc.port()); !s.ok())
      return s;
  }

  run_until_drained(config, signals, frontend, http, grpc, *engine);
  http.stop();
  grpc.stop();
  log_info("drained, goodbye");
  return absl::OkStatus();
}

}  // namespace sluice
