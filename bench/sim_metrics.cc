#include "bench/sim_metrics.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "bench/statistics.h"

namespace sluice {
namespace {

SimResult::Spread spread(std::vector<double>& values) {
  if (values.empty()) return {};
  SimResult::Spread s;
  s.mean = mean(values);
  s.p50 = percentile(values, 50);
  s.p95 = percentile(values, 95);
  s.p99 = percentile(values, 99);
  s.max = values.back();  // sorted by now
  return s;
}

void add(SimReplica::Totals& to, const SimReplica::Totals& from) {
  to.steps += from.steps;
  to.busy += from.busy;
  to.window += from.window;
  to.rows += from.rows;
  to.tokens += from.tokens;
  to.sampled += from.sampled;
  to.held += from.held;
  to.live += from.live;
  for (size_t i = 0; i < from.contended.size(); ++i) to.contended[i] += from.contended[i];
}

void add(Scheduler::Stats& to, const Scheduler::Stats& from) {
  to.preemptions += from.preemptions;
  to.swaps += from.swaps;
  to.proactive += from.proactive;
  to.blocks_out += from.blocks_out;
  to.blocks_in += from.blocks_in;
  to.written_behind += from.written_behind;
  to.demotions += from.demotions;
  to.promotions += from.promotions;
  to.livelocks += from.livelocks;
  to.prompt_tokens += from.prompt_tokens;
  to.cached_tokens += from.cached_tokens;
  to.host_cached_tokens += from.host_cached_tokens;
  to.generated_tokens += from.generated_tokens;
  to.wasted_recompute += from.wasted_recompute;
}

}  // namespace

void LogHistogram::merge(const LogHistogram& other) {
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  total_ += other.total_;
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

double LogHistogram::percentile(double p) const {
  if (total_ == 0) return 0;
  const auto rank = int64_t(std::clamp(std::ceil(p / 100 * double(total_)), 1.0, double(total_)));
  int64_t seen = 0;
  size_t i = 0;
  while ((seen += counts_[i]) < rank) ++i;
  const auto edge = [](size_t b) {
    return std::bit_cast<double>(uint64_t(int64_t(b) + kLowest) << kShift);
  };
  return std::min(max_, 0.5 * (edge(i) + edge(i + 1)));
}

SimCollector::SimCollector(const Workload& workload, std::vector<SimOutcome>& outcomes)
    : workload_(workload), outcomes_(outcomes) {
  totals_.contended.resize(size_t(workload.tenants));
}

void SimCollector::arrived(int index, Instant now) {
  SimOutcome& o = outcomes_[size_t(index)];
  o.arrived = now;
  o.samples_left = workload_.requests[size_t(index)].samples;
}

void SimCollector::refused(int index, const absl::Status& why) {
  outcomes_[size_t(index)].refused = true;
  if (refusal_.empty()) refusal_ = std::string(message_of(why));
}

bool SimCollector::observe(const TokenEvent& e, Instant now) {
  SimOutcome& o = outcomes_[size_t(e.request - 1)];
  if (e.token >= 0) {
    if (o.first == kNever) {
      o.first = o.last = now;
    } else if (e.sample == 0) {
      gaps_.add(to_seconds(now - o.last));
      o.last = now;
    }
  }
  if (e.finish == FinishReason::none || --o.samples_left > 0) return false;
  o.last = now;
  o.done = true;
  if (const auto& trace = e.known().trace) {
    swapped_seconds_ += to_seconds(trace->swapped_time);
    arriving_seconds_ += to_seconds(trace->copy_time);
  }
  return true;
}

void SimCollector::finish(const SimReplica& replica) {
  add(totals_, replica.totals());
  add(stats_, replica.scheduler().stats());
  copy_seconds_ += replica.copy_seconds();
  model_error_ += replica.scheduler().cost_model().error();
  ++replicas_;
}

void SimCollector::merge(const SimCollector& other) {
  gaps_.merge(other.gaps_);
  swapped_seconds_ += other.swapped_seconds_;
  arriving_seconds_ += other.arriving_seconds_;
  if (refusal_.empty()) refusal_ = other.refusal_;
  add(totals_, other.totals_);
  add(stats_, other.stats_);
  copy_seconds_ += other.copy_seconds_;
  model_error_ += other.model_error_;
  replicas_ += other.replicas_;
}

SimResult::SimResult(const SimCollector& c, const Workload& w) {
  spread_of(c, w);
  find_long(c, w);
  const auto share = [](double a, double b) { return b > 0 ? a / b : 0; };
  const SimReplica::Totals& t = c.totals_;
  refusal = c.refusal_;
  stats = c.stats_;
  steps = t.steps;
  rows = share(t.rows, t.window);
  step_tokens = share(t.tokens, t.window);
  held = share(t.held, t.sampled);
  live = share(t.live, t.sampled);
  busy = std::min(1.0, share(t.busy, seconds * c.replicas_));
  copying = share(c.copy_seconds_, seconds * c.replicas_);
  swap_share = share(c.swapped_seconds_, latency.mean * double(completed));
  arriving_share = share(c.arriving_seconds_, latency.mean * double(completed));
  model_error = share(c.model_error_, c.replicas_);
  gap = {c.gaps_.mean(), c.gaps_.percentile(50), c.gaps_.percentile(95), c.gaps_.percentile(99),
         c.gaps_.max()};
  double all = 0;
  for (const double s : t.contended) all += s;
  tenant_served = t.contended;
  for (const double s : t.contended) shares.push_back(share(s, all));
}

void SimResult::spread_of(const SimCollector& c, const Workload& w) {
  std::vector<double> norm, first, total;
  for (std::vector<double>* v : {&norm, &first, &total}) v->reserve(w.requests.size());
  Instant begin = kNever, last_arrival{}, end{};
  double outputs = 0, prompts = 0;
  for (size_t i = 0; i < w.requests.size(); ++i) {
    const SimOutcome& o = c.outcomes_[i];
    if (o.arrived == kNever) continue;
    ++requests;
    begin = std::min(begin, o.arrived);
    last_arrival = std::max(last_arrival, o.arrived);
    refused += o.refused;
    if (!o.done) continue;
    ++completed;
    end = std::max(end, o.last);
    const double seconds_taken = to_seconds(o.last - o.arrived);
    total.push_back(seconds_taken);
    norm.push_back(seconds_taken / w.requests[i].output);
    first.push_back(to_seconds(o.first - o.arrived));
    prompts += w.requests[i].prompt;
    outputs += double(w.requests[i].output) * w.requests[i].samples;
  }
  normalised = spread(norm);
  ttft = spread(first);
  latency = spread(total);
  if (completed == 0) return;
  seconds = to_seconds(end - begin);
  const double span = to_seconds(last_arrival - begin);
  offered = span > 0 ? double(requests - 1) / span : 0;
  achieved = double(completed) / seconds;
  output_rate = outputs / seconds;
  token_rate = (outputs + prompts) / seconds;
}

std::optional<SimResult> recorded_result(const Recording& recording, const Workload& w) {
  std::vector<SimOutcome> outcomes(w.requests.size());
  Scheduler::Stats stats;
  int64_t refused = 0;
  size_t next = 0;
  for (const RecordedRequest& r : recording.requests) {
    if (r.refused) {
      ++refused;
      continue;
    }
    if (next == outcomes.size() || !r.has_decisions) return std::nullopt;
    const RecordedDecisions& d = r.decisions;
    SimOutcome& o = outcomes[next++];
    const auto at = [&](double seconds) { return Instant{} + Nanos(int64_t(seconds * 1e9)); };
    o.arrived = at(r.at);
    o.first = at(r.at + d.first_token);
    o.last = at(r.at + d.ended);
    o.done = d.first_token >= 0 && d.ended >= 0;
    stats.prompt_tokens += r.prompt;
    stats.cached_tokens += d.cached + d.host_cached;
    stats.host_cached_tokens += d.host_cached;
    stats.preemptions += d.swaps + d.recomputes;
    stats.swaps += d.swaps;
    stats.demotions += d.demotions;
    stats.promotions += d.promotions;
    stats.wasted_recompute += d.recomputed_tokens;
  }
  SimResult result(SimCollector(w, outcomes), w);
  result.preset = "recorded";
  result.load = result.offered;
  result.refused = refused;
  result.stats = stats;
  double busy = 0, copying = 0;
  for (const RecordedStep& s : recording.steps) {
    busy += s.seconds;
    copying += s.copy_seconds;
    result.rows += s.seconds * s.rows;
    result.step_tokens += s.seconds * (s.work.prefill_tokens + s.work.decode_rows);
    result.steps += s.rows > 0;
    result.stats.blocks_out += s.swap_out;
    result.stats.blocks_in += s.swap_in;
  }
  if (busy > 0) result.rows /= busy, result.step_tokens /= busy;
  if (result.seconds > 0)
    result.busy = busy / result.seconds, result.copying = copying / result.seconds;
  return result;
}

void SimResult::find_long(const SimCollector& c, const Workload& w) {
  const auto it = std::ranges::find_if(w.requests, &SimRequest::is_long);
  if (it == w.requests.end()) return;
  const SimOutcome& l = c.outcomes_[size_t(it - w.requests.begin())];
  if (!l.done) return;
  has_long = true;
  long_ttft = to_seconds(l.first - l.arrived);
  std::vector<double> beside;
  for (const SimOutcome& o : c.outcomes_) {
    if (&o != &l && o.done && o.arrived >= l.arrived && o.arrived < l.first)
      beside.push_back(to_seconds(o.first - o.arrived));
  }
  beside_long = int64_t(beside.size());
  beside_p50 = beside.empty() ? 0 : percentile(beside, 50);
  beside_p99 = beside.empty() ? 0 : percentile(beside, 99);
}

}  // namespace sluice
