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
const Bounds kCounts = {0, 1, 2, 3, 4, 6, 8, 16, 32};
const Bounds kTokens = {1,   2,   5,   10,  20,  50,  100, 200, 500, 1e3,
                        2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6};

// What a router or dashboard written for vLLM reads, and which of ours it is.
constexpr std::array<std::pair<const char*, const char*>, 17> kAliases = {{
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
    {"sluice_request_preemptions", "vllm:request_num_preemptions"},
    {"sluice_cache_config_info", "vllm:cache_config_info"},
}};

}  // namespace

prometheus::Labels Metrics::with(const char* label, const std::string& value) const {
  prometheus::Labels labels = labels_;
  labels[label] = value;
  return labels;
}
prometheus::Family<prometheus::Counter>& Metrics::counters(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_);
}
prometheus::Family<prometheus::Gauge>& Metrics::gauges(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_);
}
prometheus::Counter& Metrics::counter(const char* name, const char* help) {
  return counters(name, help).Add(labels_);
}
prometheus::Gauge& Metrics::gauge(const char* name, const char* help) {
  return gauges(name, help).Add(labels_);
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
      preemptions(counter("sluice_preemptions_total", "Preemptions of requests")),
      swapped(gauge("sluice_requests_swapped", "Requests whose blocks are on the host")),
      waiting_tokens(
          gauge("sluice_waiting_tokens", "Prompt tokens not yet computed of requests that wait")),
      demotions(counter("sluice_level_demotions_total", "Requests moved down by a level")),
      promotions(counter("sluice_level_promotions_total", "Starving requests moved to the top")),
      livelocks(counter("sluice_livelocks_total", "Rounds without progress that were noticed")),
      eager_steps(
          counter("sluice_eager_steps_total",
                  "Decode steps that a GPU was given kernel by kernel and not as a replay")),
      request_preemptions(
          histogram("sluice_request_preemptions", "Preemptions of an ended request", kCounts)),
      request_swapped_seconds(
          histogram("sluice_request_swapped_seconds",
                    "Time that an ended request was on the host, if it was there", kRequest)),
      host_used_blocks(gauge("sluice_host_pool_used_blocks", "Blocks of host memory in use")),
      host_blocks(gauge("sluice_host_pool_blocks", "Blocks of host memory there are")),
      host_prefix_hits(counter("sluice_host_prefix_cache_hits_total",
                               "Prompt tokens found in the host's cache")),
      written_behind_blocks(counter("sluice_written_behind_blocks_total",
                                    "Full blocks copied to the host's prefix cache")),
      copied_blocks(counter("sluice_copied_blocks_total", "Blocks copied between device and host")),
      cost_model_error(gauge("sluice_cost_model_error_ratio",
                             "Mean error of predicted step times, as a share of the time")),
      step_tokens(histogram("sluice_step_tokens", "Tokens computed by one engine step", kTokens)),
      queue_seconds(
          histogram("sluice_queue_seconds", "From submission to the first step", kRequest)),
      cancel_to_free_seconds(
          histogram("sluice_cancel_to_free_seconds",
                    "From the cancel of a request until its cache blocks are free", kStep)),
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
      since_step_seconds(gauge("sluice_since_last_step_seconds",
                               "Since the engine last made progress; 0 at rest")),
      finished_(counters("sluice_requests_finished_total", "Requests ended, by reason")),
      rejected_(
          counters("sluice_requests_rejected_total", "Requests refused at admission, by reason")),
      http_requests_(counters("sluice_http_requests_total", "HTTP responses, by route and status")),
      level_requests_(
          gauges("sluice_level_requests", "Requests at a level of the queue, by state")),
      preemptions_by_cause_(counters("sluice_preemptions_by_cause_total",
                                     "Preemptions, by what became of the cache blocks, and for "
                                     "want of memory or ahead of it")),
      step_seconds_(prometheus::BuildHistogram()
                        .Name("sluice_step_seconds")
                        .Help("Time of one engine step, by what it computed")
                        .Register(*registry_)),
      tenant_requests_(gauges("sluice_tenant_requests", "Requests of a tenant, by state")),
      tenant_tokens_(counters("sluice_tenant_tokens_total", "Tokens computed for a tenant")),
      swapped_blocks_(counters("sluice_swapped_blocks_total", "Blocks swapped, by direction")),
      swapped_bytes_(counters("sluice_swapped_bytes_total", "Bytes swapped, by direction")),
      copy_seconds_(
          counters("sluice_copy_seconds_total", "Time spent copying blocks, by direction")),
      wasted_tokens_(
          counters("sluice_wasted_tokens_total", "Tokens computed for nothing, by reason")),
      cost_model_seconds_(
          gauges("sluice_cost_model_seconds", "What a step or a block's copy costs, by term")) {
  // There from the start: a rate over a series that appears later misses its first count.
  for (const char* reason : {"queue_full", "predicted_ttft", "too_long", "draining", "invalid"})
    (void)rejected(reason);
}

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
  return finished_.Add(with("finished_reason", reason));
}
prometheus::Counter& Metrics::rejected(const std::string& reason) {
  return rejected_.Add(with("reason", reason));
}
prometheus::Counter& Metrics::http_requests(const std::string& route, int status) {
  prometheus::Labels labels = with("route", route);
  labels["code"] = std::to_string(status);
  return http_requests_.Add(labels);
}
prometheus::Gauge& Metrics::level_requests(int level, const std::string& state) {
  prometheus::Labels labels = with("level", std::to_string(level));
  labels["state"] = state;
  return level_requests_.Add(labels);
}
prometheus::Counter& Metrics::preemptions_by_cause(const std::string& mode,
                                                   const std::string& reason) {
  prometheus::Labels labels = with("mode", mode);
  labels["reason"] = reason;
  return preemptions_by_cause_.Add(labels);
}
prometheus::Histogram& Metrics::step_seconds(const std::string& kind) {
  return step_seconds_.Add(with("kind", kind), kStep);
}
prometheus::Gauge& Metrics::tenant_requests(int tenant, const std::string& state) {
  prometheus::Labels labels = with("tenant", std::to_string(tenant));
  labels["state"] = state;
  return tenant_requests_.Add(labels);
}
prometheus::Counter& Metrics::tenant_tokens(int tenant) {
  return tenant_tokens_.Add(with("tenant", std::to_string(tenant)));
}
prometheus::Counter& Metrics::swapped_blocks(const std::string& direction) {
  return swapped_blocks_.Add(with("direction", direction));
}
prometheus::Counter& Metrics::swapped_bytes(const std::string& direction) {
  return swapped_bytes_.Add(with("direction", direction));
}
prometheus::Counter& Metrics::copy_seconds(const std::string& direction) {
  return copy_seconds_.Add(with("direction", direction));
}
prometheus::Counter& Metrics::wasted_tokens(const std::string& reason) {
  return wasted_tokens_.Add(with("reason", reason));
}
prometheus::Gauge& Metrics::cost_model_seconds(const std::string& term) {
  return cost_model_seconds_.Add(with("term", term));
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
