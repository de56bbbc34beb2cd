#include "server/serve.h"

#include <string.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include "base/log.h"
#include "base/metrics.h"
#include "base/version.h"
#include "config/presets.h"
#include "engine/build.h"
#include "server/frontend.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/main_loop.h"
#include "server/stream_hub.h"
#include "text/chat_template.h"
#include "text/self_test.h"
#include "text/tokenizer.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

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
  info.random_weights = config.model.load_format == "dummy";

  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::load(config.model.path);
  if (!tokenizer.ok()) return tokenizer.status();
  info.tokenizer = *std::move(tokenizer);
  if (absl::Status s = self_test(*info.tokenizer); !s.ok())
    return annotate(s, fmt::format("{}/{}", config.model.path, info.tokenizer->file()));
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

// Renamed into place once it is written: a reader sees both ports or no file.
class PortsFile {
 public:
  explicit PortsFile(const std::string& path) : path_(path), temporary_(path + ".new") {}
  // Before the model is loaded: a folder that cannot be written to is known at once.
  absl::Status probe() const {
    if (path_.empty()) return absl::OkStatus();
    if (absl::Status s = put(""); !s.ok()) return s;
    std::remove(temporary_.c_str());
    return absl::OkStatus();
  }
  absl::Status write(int http, int grpc) const {
    if (absl::Status s = put(fmt::format("{} {}\n", http, grpc)); !s.ok()) return s;
    return std::rename(temporary_.c_str(), path_.c_str()) == 0 ? absl::OkStatus() : error(path_);
  }

 private:
  absl::Status put(const std::string& text) const {
    std::ofstream file(temporary_);
    return file << text << std::flush ? absl::OkStatus() : error(temporary_);
  }
  absl::Status error(const std::string& path) const {
    return invalid_argument("server.ports_file: cannot write {}: {}", path, strerror(errno));
  }

  const std::string path_, temporary_;
};

// The sockets that a service manager handed over, or else of the knobs. Bound before the model is
// loaded, so that an address that is taken is known at once; they listen when it is there.
struct Listeners {
  Listener http, grpc;
};

absl::StatusOr<Listeners> make_listeners(const Config::Server& config, ServiceManager& service) {
  const auto make = [&](const char* name, int port, const char* knob) -> absl::StatusOr<Listener> {
    Listener handed = service.take(name);
    if (!handed) return Listener::bind(config.host, port, knob);
    log_info("{}: port {} was handed over", name, handed.port());
    return handed;
  };
  absl::StatusOr<Listener> http = make("http", config.http_port, "server.http_port");
  if (!http.ok()) return http.status();
  absl::StatusOr<Listener> grpc = make("grpc", config.grpc_port, "server.grpc_port");
  if (!grpc.ok()) return grpc.status();
  return Listeners{*std::move(http), *std::move(grpc)};
}

}  // namespace

absl::Status serve(const Config& wanted, const Reload& reload, char** environment) {
  Config config = wanted;
  if (absl::Status s = apply_preset(config.scheduler); !s.ok()) return s;
  const Signals signals;
  init_log(config.log.level, config.log.format);
  absl::StatusOr<ServiceManager> service = ServiceManager::from(environment, getpid());
  if (!service.ok()) return service.status();
  absl::StatusOr<Listeners> listeners = make_listeners(config.server, *service);
  if (!listeners.ok()) return listeners.status();
  const PortsFile ports(config.server.ports_file);
  if (absl::Status s = ports.probe(); !s.ok()) return s;
  log_info("sluice {}: loading {}", kVersion, config.model.path);
  service->tell("STATUS=loading " + config.model.path);
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
  // Ready before anybody can ask: connections may be waiting in sockets that were handed over. What
  // comes now waits for the engine.
  frontend.set_ready();
  HttpServer http(config.server, frontend);
  if (absl::Status s = http.start(std::move(listeners->http)); !s.ok()) return s;
  GrpcServer grpc(config.server, frontend, config.server.io_threads);
  if (absl::Status s = grpc.start(std::move(listeners->grpc)); !s.ok()) return s;
  // Nothing more can be computed. Load balancers are told before the process ends, and what has
  // been computed goes out.
  model.on_device_failure([&] {
    constexpr std::chrono::seconds kLastWords(1);
    frontend.set_failed();
    grpc.set_serving(false);
    std::this_thread::sleep_for(kLastWords);
  });
  engine->start();
  log_info("ready after {:.2f} s: {}{} on {}, HTTP {}:{}, gRPC {}:{}",
           std::chrono::duration<double>(Clock::now() - began).count(), model.name(),
           config.model.load_format == "dummy" ? " with random weights" : "", model.device_name(),
           config.server.host, http.port(), config.server.host, grpc.port());
  if (!config.server.ports_file.empty()) {
    grpc.set_serving(true);  // who waits for the file may ask at once
    if (absl::Status s = ports.write(http.port(), grpc.port()); !s.ok()) return s;
  }

  MainLoop(wanted, reload, signals, *service, frontend, http, grpc, *engine).run();
  http.stop();
  grpc.stop();
  log_info("drained, goodbye");
  return absl::OkStatus();
}

}  // namespace sluice
