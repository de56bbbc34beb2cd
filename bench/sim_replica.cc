#include "bench/sim_replica.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace sluice {
namespace {

// As the engine, which looks again so often when the scheduler has nothing to run for those who
// wait.
constexpr Nanos kPoll = std::chrono::milliseconds(2);
constexpr int kSampleSteps = 16;  // the cache is looked at every so many steps

Nanos nanos(double seconds) { return Nanos(std::llround(seconds * 1e9)); }

}  // namespace

void CopyStream::start(uint64_t plan, int64_t blocks, Instant now) {
  last_plan_ = plan;
  if (blocks == 0) return;
  const double seconds = double(blocks) * seconds_per_block_;
  free_ = std::max(now, free_) + nanos(seconds);
  copies_.push_back({plan, free_, blocks, nanos(seconds)});
  seconds_ += seconds;
}

CopyProgress CopyStream::progress(Instant now) {
  while (!copies_.empty() && copies_.front().end <= now) {
    done_.blocks += copies_.front().blocks;
    done_.time += copies_.front().time;
    copies_.pop_front();
  }
  done_.done = copies_.empty() ? last_plan_ : copies_.front().plan - 1;
  return done_;
}

SimReplica::SimReplica(const SimSetup& setup, const Workload& workload, std::vector<int>& live,
                       uint64_t noise_seed, Instant window_end)
    : setup_(setup),
      workload_(workload),
      truth_(setup.cost),
      // A fixed key: nobody attacks a simulation, and two runs must be the same.
      device_(setup.num_blocks, setup.block_size, BlockHasher(1, 2)),
      noise_(noise_seed),
      window_end_(window_end),
      flights_(size_t(setup.depth)),
      copies_(setup.cost.per_block_copy),
      requests_(size_t(workload.tenants)),
      live_(live) {
  totals_.contended.resize(requests_.size());
  if (setup.host_blocks > 0) {
    host_.emplace(setup.host_blocks, setup.block_size, BlockHasher(1, 2));
  }
  scheduler_ = std::make_unique<Scheduler>(setup.policy, CostModel(setup.seed_cost), device_,
                                           host_ ? &*host_ : nullptr, setup.depth,
                                           std::vector<TokenId>{}, setup.max_model_len);
}

absl::Status SimReplica::add(int index, Instant now) {
  const SimRequest& r = workload_.requests[size_t(index)];
  GenerateRequest q;
  q.prompt = workload_.prompt_of(r);
  q.sampling.max_tokens = r.output;
  q.sampling.ignore_eos = true;
  q.num_samples = r.samples;
  q.priority = r.priority;
  q.tenant = r.tenant;
  q.session = r.session;
  const absl::Status status = scheduler_->add(RequestId(index) + 1, std::move(q), now);
  if (!status.ok()) return status;
  ++requests_[r.tenant];
  if (in_flight() < setup_.depth) due_ = std::min(due_, now);
  return status;
}

void SimReplica::advance(Instant now, std::vector<TokenEvent>& events) {
  bool moved = false;
  while (in_flight() > 0 && flight(committed_).end <= now) {
    scheduler_->commit(flight(committed_++).result, now, events);
    moved = true;
  }
  while (in_flight() < setup_.depth) {
    const StepPlan plan = scheduler_->schedule(now, copies_.progress(now), events);
    if (plan.empty()) break;
    launch(plan, now);
    moved = true;
  }
  due_ = kNever;
  if (in_flight() > 0) {
    due_ = flight(committed_).end;
  } else if (copies_.next_end() != kNever) {
    due_ = copies_.next_end();
  } else if (!scheduler_->idle()) {
    due_ = now + kPoll;
    if (!moved && stuck_since_ == kNever) stuck_since_ = now;
    return;
  }
  stuck_since_ = kNever;
}

void SimReplica::launch(const StepPlan& plan, Instant now) {
  copies_.start(plan.id, int64_t(plan.swap_out.size() + plan.swap_in.size()), now);
  Flight& f = flight(launched_++);
  StepResult& result = f.result;
  result.id = plan.id;
  result.first.assign(1, 0);
  result.tokens.clear();
  StepWork work;
  for (const StepRow& row : plan.rows) {
    const int index = int(row.seq->id - 1), end = row.begin + row.count;
    const SimRequest& r = workload_.requests[size_t(index)];
    work.add(row.begin, row.count, row.is_decode());
    for (int i = 0; i < row.num_samples; ++i) {
      const int sample = row.num_samples > 1 ? i : row.seq->sample;
      result.tokens.push_back(workload_.token(r, end, sample));
    }
    result.first.push_back(int(result.tokens.size()));
    count_live(row, index);
  }
  result.logprobs.assign(result.tokens.size(), 0.0f);

  if (const int over = plan.num_tokens % setup_.tile_tokens; over > 0 && work.prefill_tokens > 0)
    work.prefill_tokens += setup_.tile_tokens - over;

  const StepError off = next_error();
  result.device_time = nanos(plan.rows.empty() ? 0 : truth_.seconds(work) * off.factor + off.pause);
  const double seconds = to_seconds(result.device_time);
  const Instant start = std::max(now, compute_free_);
  f.end = compute_free_ = start + result.device_time;
  if (plan.rows.empty()) return;

  if (requests_.size() > 1) count_tenants(plan);
  totals_.busy += seconds;
  if (start <= window_end_) {
    totals_.window += seconds;
    totals_.rows += seconds * double(plan.rows.size());
    totals_.tokens += seconds * plan.num_tokens;
    since_sample_ += seconds;
    if (totals_.steps % kSampleSteps == 0) sample_cache();
  }
  ++totals_.steps;
}

// What slows one step down slows its neighbours down too, so recorded errors come in pieces from
// random places, of random lengths (the stationary bootstrap: Politis and Romano, 1994).
StepError SimReplica::next_error() {
  constexpr double kPiece = 100;  // steps, on average
  const std::vector<StepError>& errors = setup_.errors;
  if (!errors.empty()) {
    if (next_error_ == 0 || std::uniform_real_distribution<double>(0, kPiece)(noise_) < 1)
      next_error_ = size_t(noise_() % errors.size());
    return errors[next_error_++ % errors.size()];
  }
  if (setup_.noise == 0) return {};
  std::normal_distribution<double> normal(-0.5 * setup_.noise * setup_.noise, setup_.noise);
  return {std::exp(normal(noise_)), 0};
}

// Samples share the prompt, and are all about as long as the one seen last.
void SimReplica::count_live(const StepRow& row, int index) {
  int& live = live_[size_t(index)];
  if (live == 0) holders_.push_back(index);
  const int end = row.begin + row.count, own = std::max(0, end - row.seq->num_prompt);
  live = end + own * (workload_.requests[size_t(index)].samples - 1);
}

// What tenants get is fair or not only while each of them could use more.
void SimReplica::count_tenants(const StepPlan& plan) {
  std::vector<int> left = requests_;
  std::vector<double> tokens(left.size());
  for (const StepRow& row : plan.rows) {
    const uint32_t tenant = workload_.requests[size_t(row.seq->id - 1)].tenant;
    left[tenant] -= row.seq->sample == 0;
    tokens[tenant] += row.count;
  }
  if (std::ranges::any_of(left, [](int n) { return n <= 0; })) return;
  for (size_t t = 0; t < tokens.size(); ++t) totals_.contended[t] += tokens[t];
}

// Those who lost their blocks do not say so; the scheduler is asked, but only after it has taken
// any. Blocks that several requests share hold their tokens once, hence the bound.
void SimReplica::sample_cache() {
  const Scheduler::Stats stats = scheduler_->stats();
  const bool taken = stats.preemptions != preemptions_;
  preemptions_ = stats.preemptions;
  int64_t live = 0;
  RequestInfo info;
  std::erase_if(holders_, [&](int index) {
    int& tokens = live_[size_t(index)];
    if (taken && tokens > 0 && scheduler_->find(RequestId(index) + 1, Instant{}, info) &&
        (info.state == RequestInfo::State::waiting || info.state == RequestInfo::State::swapped)) {
      tokens = 0;
    }
    live += tokens;
    return tokens == 0;
  });
  const double slots = double(stats.total_blocks) * setup_.block_size;
  const double held = double(stats.used_blocks) * setup_.block_size / slots;
  const double seconds = std::exchange(since_sample_, 0.0);
  totals_.sampled += seconds;
  totals_.held += seconds * held;
  totals_.live += seconds * std::min(held, double(live) / slots);
}

}  // namespace sluice
