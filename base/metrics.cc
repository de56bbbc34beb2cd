#include "base/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <utility>

namespace sluice {
namespace {

using Bounds = prometheus::Histogram::BucketBoundaries;

const Bounds kTtft = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                      1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Bounds kInterToken = {.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                            .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
const Bounds kRequest = {.01, .03, .1, .3, .5, .8, 1,   1.5, 2,   2.5, 5,    10,
                         15,  20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Bounds kStep = {.0001, .00025, .0005, .001, .0025, .005, .01, .025,
                      .05,   .1,     .25,   .5,   1,     2.5,  5,   10};
const Bounds kTokens = {1,   2,   5,   10,  20,  50,  100, 200, 500, 1e3,
                        2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6};

// What a router or dashboard written for vLLM reads, and which of ours it is.
constexpr std::array<std::pair<const char*, const char*>, 16> kAliases = {{
    {"sluice_requests_running", "vllm:num_requests_running"},
    {"sluice_requests_waiting", "vllm:num_requests_waiting"},
    {"sluice_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"},
    {"sluice_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"sluice_generation_tokens_total", "vllm:generation_tokens_total"},
    {"sluice_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"},
    {"sluice_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"},
    {"sluice_preemptions_total", "vllm:num_preemptions_total"},
    {"sluice_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"sluice_inter_token_seconds", "vllm:inter_token_latency_seconds"},
    {"sluice_request_seconds", "vllm:e2e_request_latency_seconds"},
    {"sluice_queue_seconds", "vllm:request_queue_time_seconds"},
    {"sluice_request_prompt_tokens", "vllm:request_prompt_tokens"},
    {"sluice_request_generation_tokens", "vllm:request_generation_tokens"},
    {"sluice_step_tokens", "vllm:iteration_tokens_total"},
    {"sluice_cache_config_info", "vllm:cache_config_info"},
}};

}  // namespace

prometheus::Counter& Metrics::counter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels_);
}
prometheus::Gauge& Metrics::gauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels_);
}
prometheus::Histogram& Metrics::histogram(const char* name, const char* help, Bounds bounds) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*registry_)
      .Add(labels_, std::move(bounds));
}

Metrics::Metrics(const std::string& model_name)
    : registry_(std::make_shared<prometheus::Registry>()),
      labels_{{"model_name", model_name}},
      running(gauge("sluice_requests_running", "Requests that hold cache blocks")),
      waiting(gauge("sluice_requests_waiting", "Requests waiting to be scheduled")),
      kv_usage(
          gauge("sluice_kv_cache_usage_ratio", "Share of KV blocks held by sequences, 0 to 1")),
      last_step_time(gauge("sluice_last_step_timestamp_seconds",
                           "Unix time at which the engine last made progress or was idle")),
      prompt_tokens(counter("sluice_prompt_tokens_total", "Prompt tokens processed")),
      generation_tokens(counter("sluice_generation_tokens_total", "Tokens generated")),
      prefix_queries(
          counter("sluice_prefix_cache_queries_total", "Prompt tokens looked up in the cache")),
      prefix_hits(counter("sluice_prefix_cache_hits_total", "Prompt tokens found in the cache")),
      preemptions(counter("sluice_preemptions_total", "Requests preempted, by recompute")),
      step_seconds(histogram("sluice_step_seconds", "Time of one engine step", kStep)),
      step_tokens(histogram("sluice_step_tokens", "Tokens computed by one engine step", kTokens)),
      queue_seconds(
          histogram("sluice_queue_seconds", "From submission to the first step", kRequest)),
      ttft_seconds(histogram("sluice_time_to_first_token_seconds",
                             "From the request read to its first token written", kTtft)),
      inter_token_seconds(
          histogram("sluice_inter_token_seconds", "Between two tokens of a stream", kInterToken)),
      request_seconds(
          histogram("sluice_request_seconds", "From the request read to its end", kRequest)),
      request_prompt_tokens(
          histogram("sluice_request_prompt_tokens", "Prompt length of finished requests", kTokens)),
      request_generation_tokens(histogram("sluice_request_generation_tokens",
                                          "Output length of finished requests", kTokens)),
      open_streams(gauge("sluice_open_streams", "Requests that have a client attached")),
      finished_(prometheus::BuildCounter()
                    .Name("sluice_requests_finished_total")
                    .Help("Requests ended, by reason")
                    .Register(*registry_)),
      rejected_(prometheus::BuildCounter()
                    .Name("sluice_requests_rejected_total")
                    .Help("Requests refused at admission, by reason")
                    .Register(*registry_)),
      http_requests_(prometheus::BuildCounter()
                         .Name("sluice_http_requests_total")
                         .Help("HTTP responses, by route and status")
                         .Register(*registry_)) {}

void Metrics::set_cache_config(int block_size, int num_blocks) {
  prometheus::Labels labels = labels_;
  labels["block_size"] = std::to_string(block_size);
  labels["num_gpu_blocks"] = std::to_string(num_blocks);  // the name routers look for
  prometheus::BuildGauge()
      .Name("sluice_cache_config_info")
      .Help("Layout of the KV cache, in the labels")
      .Register(*registry_)
      .Add(labels)
      .Set(1);
}

prometheus::Counter& Metrics::finished(const std::string& reason) {
  prometheus::Labels labels = labels_;
  labels["finished_reason"] = reason;
  return finished_.Add(labels);
}
prometheus::Counter& Metrics::rejected(const std::string& reason) {
  prometheus::Labels labels = labels_;
  labels["reason"] = reason;
  return rejected_.Add(labels);
}
prometheus::Counter& Metrics::http_requests(const std::string& route, int status) {
  prometheus::Labels labels = labels_;
  labels["route"] = route;
  labels["code"] = std::to_string(status);
  return http_requests_.Add(labels);
}

std::string Metrics::expose() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  const size_t own = families.size();
  for (const auto& [name, alias] : kAliases) {
    for (size_t i = 0; i < own; ++i) {
      if (families[i].name != name) continue;
      families.push_back(families[i]);
      families.back().name = alias;
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sluice
