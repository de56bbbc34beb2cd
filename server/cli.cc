#include "server/cli.h"

#include <fmt/format.h>
#include <sysexits.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <utility>

#include "base/text.h"
#include "base/version.h"
#include "bench/model.h"
#include "bench/ops.h"
#include "bench/serve.h"
#include "bench/tokenizer.h"
#include "config/fields.h"
#include "config/load.h"
#include "engine/build.h"
#include "engine/make_model.h"
#include "server/cli_manual.h"
#include "server/grpc_client.h"
#include "server/health.h"
#include "server/inspect.h"
#include "server/render_template.h"
#include "server/serve.h"
#include "server/simulate_flags.h"
#include "server/workload_flags.h"

namespace sluice {
namespace {

int report(const absl::Status& status) {
  if (status.ok()) return 0;
  fmt::print(stderr, "sluice: {}\n", one_line(message_of(status)));
  return 1;
}

// For supervisors of the daemon: whether to start it again can help.
int report_to_supervisor(const absl::Status& status) {
  const int result = report(status);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:  // a knob, a model's file
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kResourceExhausted:  // the plan does not fit the memory
      return EX_CONFIG;
    default:
      return result;
  }
}

struct Program {
  CLI::App app{"Sluice: serves large language models over HTTP and gRPC."};
  ConfigFlags serve_flags, plan_flags, health_flags;
  bool print = false;
  std::string inspect_dir;
  bool inspect_json = false;
  std::string preset, out, dtype = "bf16";
  uint64_t seed = 0;
  bool no_weights = false;
  BenchModelOptions bench_model;
  BenchOpsOptions bench_ops;
  BenchServeOptions bench_serve;
  BenchTokenizerOptions bench_tokenizer;
  ChatOptions chat;
  HealthOptions health;
  RenderTemplateOptions render_template;
  SimulateFlags simulate;
  int result = 0;
};

void add_serve(Program& p, char** environment) {
  CLI::App* command = p.app.add_subcommand("serve", "Serve a model until SIGTERM or Ctrl-C");
  p.serve_flags.add_to(*command);
  command->add_flag("--print-config", p.print, "Print the settings as TOML and exit");
  command->callback([&p, environment] {
    const auto load = [&p, environment] { return p.serve_flags.load(environment); };
    const absl::StatusOr<Config> config = load();
    if (!config.ok()) {
      p.result = report_to_supervisor(config.status());
      return;
    }
    if (p.print) {
      fmt::print("{}", print_config(*config));
      return;
    }
    p.result = report_to_supervisor(serve(*config, load, environment));
  });
}

void add_plan(Program& p, char** environment) {
  CLI::App* command =
      p.app.add_subcommand("plan", "Print how a model would use this machine's memory, and exit");
  p.plan_flags.add_to(*command);
  command->callback([&p, environment] {
    const absl::StatusOr<Config> config = p.plan_flags.load(environment);
    if (!config.ok()) {
      p.result = report(config.status());
      return;
    }
    const auto plan = plan_memory(*config);
    if (plan.ok()) fmt::print("{}", plan->to_text());
    p.result = report(plan.status());
  });
}

void add_inspect(Program& p) {
  CLI::App* command = p.app.add_subcommand(
      "inspect",
      "Print what is in a model directory, and everything that keeps it from being served");
  command->add_option("DIR", p.inspect_dir, "Model directory")->required();
  command->add_flag("--json", p.inspect_json, "As one JSON object");
  command->callback([&p] {
    const absl::StatusOr<Inspection> found = inspect_model(p.inspect_dir);
    if (found.ok()) fmt::print("{}", p.inspect_json ? found->json : found->text);
    if (!found.ok() || found->problems.empty()) {
      p.result = report(found.status());
      return;
    }
    const size_t reasons = found->problems.size();
    p.result = report(invalid_argument("{}: cannot be served, for {} reason{}", p.inspect_dir,
                                       reasons, reasons == 1 ? "" : "s"));
  });
}

void add_make_model(Program& p) {
  CLI::App* command = p.app.add_subcommand(
      "make-model", "Write a model directory with random weights, for tests and benchmarks");
  command->add_option("--preset", p.preset, "Shape")
      ->required()
      ->check(CLI::IsMember(model_preset_names()));
  command->add_option("--seed", p.seed, "Seed of the weights")->capture_default_str();
  command->add_option("--dtype", p.dtype, "Type of the weights")
      ->check(CLI::IsMember({"bf16", "f16", "f32", "fp8"}))
      ->capture_default_str();
  command->add_option("--out", p.out, "Directory to write")->required();
  command->add_flag("--no-weights", p.no_weights,
                    "All but the weights, to be served with --load-format=dummy");
  command->callback(
      [&p] { p.result = report(make_model(p.preset, p.seed, p.dtype, p.out, !p.no_weights)); });
}

void add_bench_serve(Program& p, CLI::App* bench) {
  BenchServeOptions& o = p.bench_serve;
  CLI::App* command =
      bench->add_subcommand("serve", "Load on any OpenAI-compatible server: latency and goodput");
  const auto option = [command](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help)->capture_default_str();
  };
  option("--url", o.url, "Server, as http://HOST:PORT");
  option("--model", o.model, "Model to ask for; empty: the first the server lists");
  option("--api-key", o.api_key, "Sent as a bearer token");
  command->add_flag("--chat", o.chat, "Use /v1/chat/completions instead of /v1/completions");
  option("--num-requests", o.workload.requests, "Requests to send")->check(CLI::Range(1, 1000000));
  option("--warmup", o.warmup, "Requests before the clock starts")->check(CLI::Range(0, 1000));
  option("--rate", o.workload.rate, "Open loop: requests a second, Poisson; 0: closed loop")
      ->check(CLI::Range(0.0, 1e6));
  option("--concurrency", o.workload.clients, "Closed loop: requests at once")
      ->check(CLI::Range(1, 100000));
  option("--input-len", o.workload.prompt_len, "Prompt length, tokens")
      ->check(CLI::Range(1, 1 << 20));
  option("--output-len", o.workload.output_len, "Output length, tokens")
      ->check(CLI::Range(1, 1 << 20));
  const WorkloadFlags workload = add_workload_flags(*command, o.workload);
  option("--shared-prefix", o.shared_prefix, "Prompt tokens that all requests share")
      ->check(CLI::Range(0, 1 << 20))
      ->excludes(workload.name);
  // What says the lengths says them alone.
  workload.name->excludes(workload.lengths);
  for (const char* fixed : {"--input-len", "--output-len"})
    command->get_option(fixed)->excludes(workload.name)->excludes(workload.lengths);
  option("--first-id", o.first_id, "Lowest random token id")->check(CLI::NonNegativeNumber);
  option("--last-id", o.last_id, "Highest random token id")->check(CLI::NonNegativeNumber);
  option("--target-ttft-ms", o.target_ttft_ms, "Goodput: bound on the first token; 0: none");
  option("--target-tpot-ms", o.target_tpot_ms, "Goodput: bound per output token; 0: none");
  option("--timeout", o.timeout_s, "Seconds a request may take")->check(CLI::PositiveNumber);
  option("--json", o.json_path, "Also write the results to this file");
  command->callback([&p] { p.result = bench_serve(p.bench_serve); });
}

// The knobs of a device, under the names that `serve` gives them.
void add_device(CLI::App* command, Config::Device& d) {
  command->add_option("--device,--device.kind", d.kind, "auto, cpu or cuda")->capture_default_str();
  command->add_option("--device.index", d.index, "Which GPU, counted from 0");
  command->add_option("--device.plugin", d.plugin, "File of the CUDA engine");
  command->add_option("--device.libraries", d.libraries, "Folder of NVIDIA's libraries");
  command->add_option("--device.plan_cache", d.plan_cache, "Folder for what is measured of a GPU");
  command->add_flag("--device.batch_invariant", d.batch_invariant,
                    "On a GPU: products by the one kernel that does not depend on the batch");
  command->add_option("--device.overlap_kernels", d.overlap_kernels,
                      "On a GPU: a kernel comes to the chip while the one before it runs");
  command->add_option("--device.isa", d.isa, "Instruction set of the CPU, at most");
  command->add_option("--threads,--device.threads", d.threads,
                      "CPU threads; 0: the cgroup's quota");
}

void add_bench(Program& p) {
  CLI::App* bench = p.app.add_subcommand("bench", "Measure a model, a server or the kernels");
  bench->require_subcommand(1);

  CLI::App* model =
      bench->add_subcommand("model", "Prefill and decode speed of a model on a device");
  model->add_option("DIR", p.bench_model.model_dir, "Model directory")->required();
  model->add_option("--load-format,--model.load_format", p.bench_model.load_format, "auto or dummy")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->capture_default_str();
  add_device(model, p.bench_model.device);
  const auto list = [model](const char* name, std::vector<int>& values, const char* help) {
    model->add_option(name, values, help)->delimiter(',')->check(CLI::Range(1, 1 << 20));
  };
  list("--prompts", p.bench_model.prompts, "Prefill: lengths of the prompts, as 128,512");
  list("--batches", p.bench_model.batches, "Decode: sequences at once, as 1,8,32");
  list("--contexts", p.bench_model.contexts, "Decode: tokens of each sequence");
  model->add_option("--max-step-tokens", p.bench_model.max_step_tokens,
                    "Longer prompts go in chunks; 0: 512, or 8192 of a GPU");
  model->add_option("--json", p.bench_model.json_path, "Also write the results to this file");
  model->callback([&p] { p.result = bench_model(p.bench_model); });

  CLI::App* ops = bench->add_subcommand("ops", "Speed of each kernel against the device's limits");
  add_device(ops, p.bench_ops.device);
  ops->add_option("--shapes", p.bench_ops.shapes, "Layers of which model; auto: by the device")
      ->check(CLI::IsMember(bench_shapes()))
      ->capture_default_str();
  ops->add_option("--only", p.bench_ops.only, "Measure what has this in its name; may be repeated");
  ops->add_option("--seconds", p.bench_ops.seconds, "Time per line")->capture_default_str();
  ops->add_option("--json", p.bench_ops.json_path, "Also write the results to this file");
  ops->callback([&p] { p.result = bench_ops(p.bench_ops); });

  CLI::App* tokenizer =
      bench->add_subcommand("tokenizer", "Speed of a model's tokenizer on one core");
  tokenizer->add_option("DIR", p.bench_tokenizer.model_dir, "Model directory")->required();
  tokenizer->add_option("--file", p.bench_tokenizer.file, "Text to take; else made-up texts");
  tokenizer->add_option("--seconds", p.bench_tokenizer.seconds, "Time per line")
      ->capture_default_str();
  tokenizer->add_option("--json", p.bench_tokenizer.json_path,
                        "Also write the results to this file");
  tokenizer->callback([&p] { p.result = bench_tokenizer(p.bench_tokenizer); });

  add_bench_serve(p, bench);
}

void add_render_template(Program& p) {
  CLI::App* command = p.app.add_subcommand(
      "render-template", "Print the prompt that a chat request becomes, and exit");
  RenderTemplateOptions& o = p.render_template;
  command->add_option("DIR", o.model_dir, "Model directory")->required();
  command->add_option("--request", o.request,
                      "File with the JSON body of a chat request; -: stdin");
  command->add_option("--chat-template", o.chat_template,
                      "Name of one of the model's templates, or a file with one");
  command->add_flag("--as-is", o.as_is,
                    "Messages unchanged: the daemon joins text parts and reads calls' arguments");
  command->callback([&p] {
    const absl::StatusOr<std::string> text = render_template(p.render_template);
    if (text.ok())
      fmt::print("{}", *text);
    else
      p.result = report(text.status());
  });
}

void add_chat(Program& p) {
  ChatOptions& o = p.chat;
  CLI::App* command = p.app.add_subcommand("chat", "Ask a running daemon one question over gRPC");
  command->add_option("TEXT", o.text, "The question")->required();
  command->add_option("--address", o.address, "HOST:PORT of the gRPC side")->capture_default_str();
  command->add_option("--system", o.system, "System message");
  command->add_option("--max-tokens", o.max_tokens, "Longest answer, tokens");
  command->add_option("--temperature", o.temperature, "0 to 2; 0: greedy");
  command->add_option("--seed", o.seed, "For the same answer again");
  command->add_option("--timeout", o.timeout_s, "Seconds")->check(CLI::PositiveNumber);
  command->callback([&p] { p.result = report(chat(p.chat)); });
}

void add_health(Program& p, char** environment) {
  CLI::App* command = p.app.add_subcommand(
      "health", "Ask a running daemon whether it takes new work; exit code 1 if not");
  p.health_flags.add_knobs_to(*command, [](std::string_view knob) {
    return knob == "server.host" || knob == "server.http_port";
  });
  command->add_flag("--live", p.health.live, "Ask only whether the process answers");
  command->add_option("--timeout", p.health.timeout_s, "Seconds")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  command->callback([&p, environment] {
    const absl::StatusOr<Config> config = p.health_flags.load_knobs(environment, {});
    if (config.ok()) {
      p.health.host = config->server.host;
      p.health.port = config->server.http_port;
    }
    p.result = report(config.ok() ? check_health(p.health) : config.status());
  });
}

void add_small(Program& p) {
  add_render_template(p);
  p.app.add_subcommand("version", "Print the version")->callback([] {
    fmt::print("sluice {}\n", kVersion);
  });
  p.app.add_subcommand("config-reference", "Print docs/configuration.md")->callback([] {
    fmt::print("{}", config_reference());
  });
}

}  // namespace

void ConfigFlags::add_to(CLI::App& command) {
  command.add_option("DIR", directory_, "Model directory (the knob model.path)");
  add_knobs_to(command, [](std::string_view) { return true; });
}

void ConfigFlags::add_knobs_to(CLI::App& command, bool (*wanted)(std::string_view knob)) {
  command.add_option("--config", file_, "TOML file with settings")->envname("SLUICE_CONFIG");
  Config defaults;
  for (const Field& field : fields_of(defaults)) {
    if (!wanted(field.name)) continue;
    const std::string name(field.name);
    std::string flags = "--" + name;
    if (!field.flag.empty()) flags = std::string(field.flag) + "," + flags;
    std::string help(field.help);
    if (const std::string value = text_of(field); !value.empty()) help += " [" + value + "]";
    if (!field.choices.empty()) help += fmt::format(" ({})", fmt::join(field.choices, ", "));
    command
        .add_option_function<std::string>(
            flags,
            [this, name](const std::string& v) {
              given_.push_back({name, v});
            },
            help)
        ->type_name("")
        ->group(name.substr(0, name.find('.')));
  }
}

absl::StatusOr<Config> ConfigFlags::load(char** environment) const {
  absl::StatusOr<Config> config = load_knobs(environment, {});
  if (config.ok() && config->model.path.empty())
    return invalid_argument("no model: give a directory, as in `sluice serve DIR`");
  return config;
}

absl::StatusOr<Config> ConfigFlags::load_knobs(char** environment,
                                               std::vector<std::string> defaults) const {
  ConfigSources sources{.file = file_};
  if (file_.empty()) sources.environment = std::move(defaults);
  for (char** entry = environment; entry && *entry; ++entry) sources.environment.push_back(*entry);
  for (const Given& g : given_) sources.flags.emplace_back(g.name, g.value);
  if (!directory_.empty()) sources.flags.emplace_back("model.path", directory_);
  return load_config(sources);
}

int run_command_line(int argc, char** argv, char** environment) {
  Program p;
  p.app.require_subcommand(1);
  p.app.set_version_flag("--version", fmt::format("sluice {}", kVersion));
  add_serve(p, environment);
  add_plan(p, environment);
  add_inspect(p);
  add_make_model(p);
  add_bench(p);
  add_chat(p);
  add_health(p, environment);
  p.simulate.add_to(p.app, environment, p.result);
  add_small(p);
  add_manual(p.app);
  try {
    p.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return p.app.exit(error) == 0 ? 0 : 2;
  }
  return p.result;
}

}  // namespace sluice
