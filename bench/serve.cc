#include "bench/serve.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/status.h"
#include "base/types.h"
#include "bench/statistics.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using json = nlohmann::json;

struct Target {
  std::string host, port, authority;
};

absl::StatusOr<Target> parse_url(std::string_view url) {
  constexpr std::string_view scheme = "http://";
  if (!url.starts_with(scheme))
    return invalid_argument("--url: '{}' is not an http:// address", url);
  url.remove_prefix(scheme.size());
  while (url.ends_with('/')) url.remove_suffix(1);
  if (url.empty() || url.find('/') != std::string_view::npos)
    return invalid_argument("--url: give only http://HOST:PORT");
  const size_t colon = url.rfind(':');
  const bool has_port = colon != std::string_view::npos && !url.ends_with(']');
  Target target{std::string(has_port ? url.substr(0, colon) : url),
                has_port ? std::string(url.substr(colon + 1)) : "80", std::string(url)};
  if (target.host.starts_with('[')) target.host = target.host.substr(1, target.host.size() - 2);
  return target;
}

// What one request came to. Times in seconds.
struct Outcome {
  std::string error;  // empty: it succeeded
  double due = 0;     // since the start
  double ttft = 0, total = 0, tpot = 0;
  int input_tokens = 0, output_tokens = 0;
  std::vector<double> gaps;
};

// The value of an unsigned number after `key`, or -1.
int number_after(std::string_view text, std::string_view key) {
  const size_t at = text.find(key);
  if (at == std::string_view::npos) return -1;
  return std::atoi(std::string(text.substr(at + key.size(), 12)).c_str());
}

// An event that carries text. Looked for, not parsed: the load must not cost what the server needs.
bool has_text(std::string_view event) {
  for (const std::string_view key :
       {R"("text":")", R"("content":")", R"("text": ")", R"("content": ")"}) {
    const size_t at = event.find(key);
    if (at != std::string_view::npos && at + key.size() < event.size() &&
        event[at + key.size()] != '"')
      return true;
  }
  return false;
}

class Load {
 public:
  Load(const BenchServeOptions& options, Target target, Workload workload)
      : options_(options),
        target_(std::move(target)),
        workload_(std::move(workload)),
        rng_(options.workload.seed) {
    std::mt19937_64 prefix_rng(options.workload.seed ^ 0x5eed);
    int longest = 0;
    for (const SimRequest& r : workload_.requests) longest = std::max(longest, r.shared);
    for (int i = 0; i < longest; ++i) prefix_.push_back(draw_id(prefix_rng));
  }

  absl::Status run() {
    endpoints_ = tcp::resolver(io_).resolve(target_.host, target_.port, error_);
    if (error_) return unavailable("{}: {}", target_.authority, error_.message());
    if (absl::Status s = find_model(); !s.ok()) return s;
    for (int i = 0; i < options_.warmup; ++i) {
      Outcome outcome;
      // The coroutine keeps a reference.
      const std::string body = make_body(workload_.requests[i % workload_.requests.size()]);
      asio::co_spawn(io_, request(body, Clock::now(), &outcome), asio::detached);
      io_.run();
      io_.restart();
      if (!outcome.error.empty()) return unavailable("warm-up request: {}", outcome.error);
    }
    for (const int i : workload_.order) bodies_.push_back(make_body(workload_.requests[i]));
    outcomes_.resize(bodies_.size());
    began_ = Clock::now();
    if (workload_.clients == 0) {
      asio::co_spawn(io_, open_loop(), asio::detached);
    } else {
      for (size_t i = 0; i < std::min(size_t(workload_.clients), bodies_.size()); ++i)
        asio::co_spawn(io_, closed_loop(), asio::detached);
    }
    asio::co_spawn(io_, progress(), asio::detached);
    io_.run();
    seconds_ = std::chrono::duration<double>(last_end_ - began_).count();
    return absl::OkStatus();
  }

  const std::vector<Outcome>& outcomes() const { return outcomes_; }
  double seconds() const { return seconds_; }
  const std::string& model() const { return model_; }

 private:
  int draw_id(std::mt19937_64& rng) const {
    return std::uniform_int_distribution<int>(options_.first_id, options_.last_id)(rng);
  }

  absl::Status find_model() {
    model_ = options_.model;
    if (!model_.empty()) return absl::OkStatus();
    beast::tcp_stream stream(io_);
    stream.connect(endpoints_, error_);
    if (error_) return unavailable("{}: {}", target_.authority, error_.message());
    http::write(stream, make_request(http::verb::get, "/v1/models", ""), error_);
    beast::flat_buffer buffer;
    http::response<http::string_body> response;
    if (!error_) http::read(stream, buffer, response, error_);
    const json body = json::parse(response.body(), nullptr, false);
    if (error_ || !body.is_object() || !body.contains("data") || body["data"].empty())
      return unavailable("GET /v1/models: {}",
                         error_ ? error_.message() : "no model in the answer");
    model_ = body["data"][0].value("id", "");
    return absl::OkStatus();
  }

  http::request<http::string_body> make_request(http::verb verb, std::string_view path,
                                                std::string body) const {
    http::request<http::string_body> request{verb, {path.data(), path.size()}, 11};
    request.set(http::field::host, target_.authority);
    if (!options_.api_key.empty())
      request.set(http::field::authorization, "Bearer " + options_.api_key);
    if (verb == http::verb::post) request.set(http::field::content_type, "application/json");
    request.keep_alive(false);
    request.body() = std::move(body);
    request.prepare_payload();
    return request;
  }

  std::string make_body(const SimRequest& r) {
    json body = {{"model", model_},  {"max_tokens", r.output},
                 {"temperature", 0}, {"ignore_eos", true},
                 {"stream", true},   {"stream_options", {{"include_usage", true}}}};
    std::vector<int> ids(prefix_.begin(), prefix_.begin() + r.shared);
    while (static_cast<int>(ids.size()) < r.prompt) ids.push_back(draw_id(rng_));
    if (options_.chat) {
      std::string words;
      for (const int id : ids) words += fmt::format("w{} ", id);
      body["messages"] = json::array({{{"role", "user"}, {"content", words}}});
    } else {
      body["prompt"] = ids;
    }
    return body.dump();
  }

  asio::awaitable<void> open_loop() {
    asio::steady_timer timer(io_);
    for (size_t i = 0; i < bodies_.size(); ++i) {
      const std::chrono::duration<double> since(workload_.requests[workload_.order[i]].arrival);
      const Clock::time_point at = began_ + std::chrono::duration_cast<Clock::duration>(since);
      timer.expires_at(at);
      co_await timer.async_wait(asio::use_awaitable);
      // Timed from when it was due: a load generator that falls behind must not flatter the server.
      asio::co_spawn(io_, finish_one(i, at), asio::detached);
    }
  }
  asio::awaitable<void> closed_loop() {
    while (next_ < bodies_.size()) {
      const size_t i = next_++;
      co_await finish_one(i, Clock::now());
    }
  }
  asio::awaitable<void> finish_one(size_t i, Clock::time_point due) {
    outcomes_[i].due = std::chrono::duration<double>(due - began_).count();
    co_await request(bodies_[i], due, &outcomes_[i]);
    last_end_ = Clock::now();
    ++num_done_;
    num_tokens_ += outcomes_[i].output_tokens;
  }
  asio::awaitable<void> progress() {
    asio::steady_timer timer(io_);
    while (num_done_ < bodies_.size()) {
      timer.expires_after(std::chrono::milliseconds(200));
      co_await timer.async_wait(asio::use_awaitable);
      const double t = std::chrono::duration<double>(Clock::now() - began_).count();
      if (num_done_ == bodies_.size() || std::fmod(t, 2.0) < 0.2)
        fmt::print(stderr, "\r{}/{} requests, {:.0f} tokens/s ", num_done_, bodies_.size(),
                   static_cast<double>(num_tokens_) / t);
    }
    fmt::print(stderr, "\n");
  }

  asio::awaitable<void> request(const std::string& body, Clock::time_point due, Outcome* out) {
    try {
      co_await exchange(body, due, out);
    } catch (const boost::system::system_error& e) {
      out->error = e.code().message();
    }
  }

  asio::awaitable<void> exchange(const std::string& body, Clock::time_point due, Outcome* out) {
    beast::tcp_stream stream(io_);
    stream.expires_after(std::chrono::milliseconds(static_cast<int64_t>(options_.timeout_s * 1e3)));
    co_await stream.async_connect(endpoints_, asio::use_awaitable);
    stream.socket().set_option(tcp::no_delay(true));
    auto request = make_request(http::verb::post,
                                options_.chat ? "/v1/chat/completions" : "/v1/completions", body);
    co_await http::async_write(stream, request, asio::use_awaitable);

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
    const int status = parser.get().result_int();
    std::string text;  // of the body, what is not a whole line yet
    Clock::time_point first{}, last{};
    int events = 0;
    char chunk[16384];
    bool done = false;
    while (!parser.is_done() && !done) {
      parser.get().body().data = chunk;
      parser.get().body().size = sizeof chunk;
      beast::error_code error;
      co_await http::async_read_some(stream, buffer, parser,
                                     asio::redirect_error(asio::use_awaitable, error));
      if (error && error != http::error::need_buffer) throw boost::system::system_error(error);
      text.append(chunk, sizeof chunk - parser.get().body().size);
      if (status != 200) continue;
      size_t begin = 0;
      for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
        const std::string_view line(text.data() + begin, end - begin);
        if (!line.starts_with("data: ")) continue;
        if (line.starts_with("data: [DONE]")) {
          done = true;
          continue;
        }
        if (line.find(R"("error":)") != std::string_view::npos) out->error = std::string(line);
        if (const int n = number_after(line, R"("completion_tokens":)"); n >= 0) {
          out->output_tokens = n;
          out->input_tokens = number_after(line, R"("prompt_tokens":)");
        }
        if (!has_text(line)) continue;
        const auto now = Clock::now();
        if (events++ == 0) {
          first = now;
        } else {
          out->gaps.push_back(std::chrono::duration<double>(now - last).count());
        }
        last = now;
      }
      text.erase(0, begin);
    }
    if (status != 200) out->error = fmt::format("HTTP {}: {}", status, text.substr(0, 300));
    if (out->error.empty() && events == 0) out->error = "no token came";
    if (out->error.empty() && !done) out->error = "the stream ended early";
    if (!out->error.empty()) co_return;
    if (out->output_tokens == 0) out->output_tokens = events;
    out->ttft = std::chrono::duration<double>(first - due).count();
    out->total = std::chrono::duration<double>(last - due).count();
    if (out->output_tokens > 1)
      out->tpot = std::chrono::duration<double>(last - first).count() / (out->output_tokens - 1);
  }

  const BenchServeOptions& options_;
  const Target target_;
  const Workload workload_;
  std::mt19937_64 rng_;
  asio::io_context io_{1};
  boost::system::error_code error_;
  tcp::resolver::results_type endpoints_;
  std::string model_;
  std::vector<int> prefix_;
  std::vector<std::string> bodies_;
  std::vector<Outcome> outcomes_;
  Clock::time_point began_{}, last_end_{};
  double seconds_ = 0;
  size_t next_ = 0, num_done_ = 0;
  int64_t num_tokens_ = 0;
};

json summary(std::vector<double> values, double scale) {
  for (double& v : values) v *= scale;
  json row;
  const double average = mean(values);
  row["mean"] = average;
  for (const int p : {50, 90, 95, 99}) row[fmt::format("p{}", p)] = percentile(values, p);
  row["max"] = percentile(values, 100);
  return row;
}

json results_of(const BenchServeOptions& options, const Load& load) {
  std::vector<double> ttft, tpot, gaps, total, normalised;
  int64_t input = 0, output = 0;
  int good = 0;
  json errors = json::array(), each = json::array();
  for (const Outcome& o : load.outcomes()) {
    if (!o.error.empty()) {
      if (errors.size() < 10) errors.push_back(o.error);
      continue;
    }
    ttft.push_back(o.ttft);
    if (o.output_tokens > 1) tpot.push_back(o.tpot);
    gaps.insert(gaps.end(), o.gaps.begin(), o.gaps.end());
    total.push_back(o.total);
    normalised.push_back(o.total / o.output_tokens);
    each.push_back({{"at_s", o.due},
                    {"input_tokens", o.input_tokens},
                    {"output_tokens", o.output_tokens},
                    {"ttft_ms", o.ttft * 1e3},
                    {"total_ms", o.total * 1e3}});
    input += o.input_tokens;
    output += o.output_tokens;
    good += (options.target_ttft_ms <= 0 || o.ttft * 1e3 <= options.target_ttft_ms) &&
            (options.target_tpot_ms <= 0 || o.tpot * 1e3 <= options.target_tpot_ms);
  }
  const double s = load.seconds();
  const double succeeded = static_cast<double>(ttft.size());
  return {{"url", options.url},
          {"model", load.model()},
          {"rate", options.workload.rate},
          {"concurrency", options.workload.rate > 0 ? 0 : options.workload.clients},
          {"requests", load.outcomes().size()},
          {"succeeded", ttft.size()},
          {"failed", load.outcomes().size() - ttft.size()},
          {"errors", errors},
          {"seconds", s},
          {"requests_per_second", succeeded / s},
          {"goodput_per_second", good / s},
          {"input_tokens_per_second", static_cast<double>(input) / s},
          {"output_tokens_per_second", static_cast<double>(output) / s},
          {"ttft_ms", summary(ttft, 1e3)},
          {"tpot_ms", summary(tpot, 1e3)},
          {"inter_token_ms", summary(gaps, 1e3)},
          {"total_ms", summary(total, 1e3)},
          {"normalised_ms", summary(normalised, 1e3)},
          {"each", each}};
}

void print_table(const BenchServeOptions& options, const json& r) {
  const auto number = [&](const char* key) { return r[key].get<double>(); };
  fmt::print(
      "{} requests in {:.1f} s, {} failed: {:.2f} requests/s, {:.1f} output tokens/s, "
      "{:.1f} input tokens/s\n",
      r["requests"].get<int>(), number("seconds"), r["failed"].get<int>(),
      number("requests_per_second"), number("output_tokens_per_second"),
      number("input_tokens_per_second"));
  if (options.target_ttft_ms > 0 || options.target_tpot_ms > 0)
    fmt::print("goodput: {:.2f} requests/s within the targets\n", number("goodput_per_second"));
  constexpr std::array kColumns = {"mean", "p50", "p90", "p95", "p99", "max"};
  fmt::print("{:<16}{:>10}\n", "ms", fmt::join(kColumns, ""));
  for (const auto& [key, name] : {std::pair{"ttft_ms", "first token"},
                                  {"tpot_ms", "per token"},
                                  {"inter_token_ms", "between events"},
                                  {"total_ms", "whole request"},
                                  {"normalised_ms", "whole, per token"}}) {
    fmt::print("{:<16}", name);
    for (const char* column : kColumns) {
      const json& v = r[key][column];
      fmt::print("{:>10}", v.is_number() && std::isfinite(v.get<double>())
                               ? fmt::format("{:.2f}", v.get<double>())
                               : "-");
    }
    fmt::print("\n");
  }
  for (const json& error : r["errors"])
    fmt::print(stderr, "failed request: {}\n", error.get<std::string>());
}

// What comes, or why that cannot be played.
absl::StatusOr<Workload> traffic(const BenchServeOptions& options) {
  WorkloadOptions o = options.workload;
  if (!o.name.empty() || !o.lengths.empty()) o.prompt_len = 0;
  o.arrivals = o.rate > 0 ? Arrivals::poisson : Arrivals::closed;
  if (o.name == "chat-sessions")
    return invalid_argument(
        "--workload: later turns of chat-sessions hold the tokens of answers, which servers do not "
        "send");
  if (o.name == "two-tenants")
    return invalid_argument(
        "--workload: two-tenants cannot be told apart by a server: the API has one tenant");
  if (o.name == "short-plus-long" && o.rate == 0)
    return invalid_argument(
        "--workload: the long prompt of short-plus-long comes at a time: give --rate");
  if (o.seconds > 0 && o.rate == 0)
    return invalid_argument("--seconds: only bounds arrivals at a rate: give --rate");
  auto workload = make_workload(o);
  if (!workload.ok()) return workload;
  if (options.shared_prefix > 0) {
    for (SimRequest& r : workload->requests) r.shared = std::min(options.shared_prefix, r.prompt);
  }
  return workload;
}

}  // namespace

int bench_serve(const BenchServeOptions& options) {
  const auto fail = [](const absl::Status& status) {
    fmt::print(stderr, "sluice: {}\n", message_of(status));
    return 1;
  };
  const absl::StatusOr<Target> target = parse_url(options.url);
  if (!target.ok()) return fail(target.status());
  auto workload = traffic(options);
  if (!workload.ok()) return fail(workload.status());
  if (options.first_id > options.last_id)
    return fail(invalid_argument("--first-id must not be above --last-id"));
  Load load(options, *target, *std::move(workload));
  if (absl::Status s = load.run(); !s.ok()) return fail(s);
  const json results = results_of(options, load);
  print_table(options, results);
  if (!options.json_path.empty()) {
    std::ofstream file(options.json_path);
    file << results.dump(2) << "\n";
    if (!file) return fail(internal_error("--json: cannot write {}", options.json_path));
  }
  return results["failed"].get<int>() == 0 ? 0 : 1;
}

}  // namespace sluice
