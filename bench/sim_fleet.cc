#include "bench/sim_fleet.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace sluice {
namespace {

// A scheduler that leaves requests waiting for so long, with nothing running, never takes them.
constexpr Nanos kPatience = std::chrono::seconds(60);

Instant at(double seconds) { return Instant{} + Nanos(int64_t(seconds * 1e9)); }

// Replicas that share arrivals, in one loop of discrete events: an arrival, or a replica that has
// something to do. Arrivals go before what replicas do at the same time.
class Fleet {
 public:
  // `order`: the requests that follow none and come here, by arrival.
  Fleet(const SimOptions& o, const Workload& w, std::span<const int> order, int replicas,
        int first_replica, std::vector<int>& live, SimCollector& collector)
      : workload_(w),
        route_(o.route),
        block_size_(o.setup.block_size),
        order_(order),
        collector_(collector),
        load_(size_t(replicas)) {
    const bool open = w.clients == 0 && !order.empty();
    Instant window_end = kNever;
    // Where all come at once, what follows is all there is.
    if (open && last_arrival() > first_arrival()) window_end = last_arrival();
    for (int i = 0; i < replicas; ++i) {
      replicas_.push_back(std::make_unique<SimReplica>(
          o.setup, w, live, mix64(o.seed, uint64_t(first_replica + i)), window_end));
    }
    for (int i = 0; i < w.clients; ++i) next_client(Instant{});
  }

  absl::Status run() {
    for (;;) {
      while (!due_.empty() && due_.top().when != replica(due_.top()).due()) due_.pop();
      const Instant work = due_.empty() ? kNever : due_.top().when;
      const Instant come = std::min(next_in_order(), later_.empty() ? kNever : later_.top().when);
      if (work == kNever && come == kNever) break;
      if (come <= work) {
        take_arrival(come);
        continue;
      }
      const int r = due_.top().index;
      due_.pop();
      if (absl::Status status = advance(r, work); !status.ok()) return status;
    }
    for (const auto& r : replicas_) collector_.finish(*r);
    return absl::OkStatus();
  }

 private:
  struct Due {
    Instant when;
    int index;  // of a replica, or a request
    bool operator>(const Due& o) const { return when != o.when ? when > o.when : index > o.index; }
  };
  using Queue = std::priority_queue<Due, std::vector<Due>, std::greater<>>;

  SimReplica& replica(const Due& d) { return *replicas_[size_t(d.index)]; }
  Instant first_arrival() const { return at(workload_.requests[size_t(order_.front())].arrival); }
  Instant last_arrival() const { return at(workload_.requests[size_t(order_.back())].arrival); }
  Instant next_in_order() const {
    if (workload_.clients > 0 || cursor_ == order_.size()) return kNever;
    return at(workload_.requests[size_t(order_[cursor_])].arrival);
  }
  void next_client(Instant now) {
    if (cursor_ < order_.size()) later_.push({now, order_[cursor_++]});
  }

  void take_arrival(Instant now) {
    int index = 0;
    if (next_in_order() <= now) {
      index = order_[cursor_++];
    } else {
      index = later_.top().index;
      later_.pop();
    }
    const int r = choose(workload_.requests[size_t(index)]);
    SimReplica& replica = *replicas_[size_t(r)];
    collector_.arrived(index, now);
    const Instant before = replica.due();
    const absl::Status status = replica.add(index, now);
    if (!status.ok()) {
      collector_.refused(index, status);
      follow(index, now);
      return;
    }
    ++load_[size_t(r)];
    if (replica.due() != before) due_.push({replica.due(), r});
  }

  absl::Status advance(int r, Instant now) {
    SimReplica& replica = *replicas_[size_t(r)];
    events_.clear();
    replica.advance(now, events_);
    for (const TokenEvent& e : events_) {
      if (!collector_.observe(e, now)) continue;
      const int index = int(e.request - 1);
      replica.forget(index);
      --load_[size_t(r)];
      follow(index, now);
    }
    if (replica.due() != kNever) due_.push({replica.due(), r});
    if (replica.stuck_since() == kNever || now - replica.stuck_since() < kPatience) {
      return absl::OkStatus();
    }
    const Scheduler::Stats s = replica.scheduler().stats();
    return internal_error(
        "the scheduler has run nothing since {:.3f} s although {} requests wait, {} run and {} are "
        "swapped out",
        to_seconds(replica.stuck_since().time_since_epoch()), s.waiting, s.running, s.swapped);
  }

  // What a client does when it has its answer.
  void follow(int index, Instant now) {
    const SimRequest& r = workload_.requests[size_t(index)];
    if (r.next >= 0) {
      later_.push({now + (at(workload_.requests[size_t(r.next)].arrival) - Instant{}), r.next});
    } else if (workload_.clients > 0) {
      next_client(now);
    }
  }

  int choose(const SimRequest& r);

  const Workload& workload_;
  const Route route_;
  const int block_size_;
  std::span<const int> order_;
  SimCollector& collector_;
  std::vector<int> load_;  // by replica: requests it has
  std::vector<std::unique_ptr<SimReplica>> replicas_;
  size_t cursor_ = 0;  // in order_
  int turn_ = 0;       // round robin
  Queue later_;        // arrivals that answers brought about
  Queue due_;          // replicas; entries whose time is not theirs any more are stale
  std::vector<TokenEvent> events_;
};

int prefix_replica(const Workload& w, const SimRequest& r, int block_size, int replicas) {
  uint64_t hash = r.session;
  if (hash == 0) {
    for (int i = 0; i < std::min(block_size, r.prompt); ++i) {
      hash = mix64(hash, uint64_t(w.token(r, i)));
    }
  }
  return int(mix64(hash) % uint64_t(replicas));
}

int Fleet::choose(const SimRequest& r) {
  const int replicas = int(replicas_.size());
  if (replicas == 1) return 0;
  switch (route_) {
    case Route::round_robin:
      return turn_++ % replicas;
    case Route::least_loaded:
      return int(std::ranges::min_element(load_) - load_.begin());
    case Route::prefix:
      return prefix_replica(workload_, r, block_size_, replicas);
  }
  return 0;
}

// By replica: its requests, by arrival.
std::vector<std::vector<int>> divide(const SimOptions& o, const Workload& w) {
  std::vector<std::vector<int>> orders(size_t(o.replicas));
  int turn = 0;
  for (const int index : w.order) {
    const int r = o.route == Route::prefix
                      ? prefix_replica(w, w.requests[size_t(index)], o.setup.block_size, o.replicas)
                      : turn++ % o.replicas;
    orders[size_t(r)].push_back(index);
  }
  return orders;
}

absl::Status simulate_apart(const SimOptions& o, const Workload& w, std::vector<int>& live,
                            std::vector<SimOutcome>& outcomes, SimCollector& all) {
  const std::vector<std::vector<int>> orders = divide(o, w);
  std::vector<std::unique_ptr<SimCollector>> parts(orders.size());
  std::vector<absl::Status> statuses(orders.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < orders.size();) {
      parts[i] = std::make_unique<SimCollector>(w, outcomes);
      statuses[i] = Fleet(o, w, orders[i], 1, int(i), live, *parts[i]).run();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < o.threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!statuses[i].ok()) return annotate(statuses[i], fmt::format("replica {}", i));
    all.merge(*parts[i]);
    parts[i].reset();
  }
  return absl::OkStatus();
}

}  // namespace

bool one_by_one(const SimOptions& o, const Workload& w) {
  const bool follows = std::ranges::any_of(w.requests, &SimRequest::follows);
  return o.replicas > 1 && w.clients == 0 &&
         (o.route == Route::prefix || (o.route == Route::round_robin && !follows));
}

absl::StatusOr<SimResult> simulate_point(const SimOptions& o, const Workload& w) {
  std::vector<int> live(w.requests.size());
  std::vector<SimOutcome> outcomes(w.requests.size());
  SimCollector collector(w, outcomes);
  const absl::Status status = one_by_one(o, w)
                                  ? simulate_apart(o, w, live, outcomes, collector)
                                  : Fleet(o, w, w.order, o.replicas, 0, live, collector).run();
  if (!status.ok()) return status;
  return SimResult(collector, w);
}

}  // namespace sluice
