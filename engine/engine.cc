#include "engine/engine.h"

#include <absl/container/flat_hash_map.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/queue.h"
#include "engine/engine_metrics.h"
#include "engine/recording.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// While idle the loop sleeps in the inbox; it looks up this often only to say that it is alive.
constexpr std::chrono::seconds kHeartbeat{5};
// The scheduler promises that a live request always gets a row once nothing is in flight. Should it
// not, the loop must neither spin nor hang.
constexpr std::chrono::milliseconds kStallPoll{2};
// Where copies are all that is under way, their runner wakes the loop when they have ended;
// deadlines and a drain's end may fall due before.
constexpr std::chrono::milliseconds kCopyPoll{20};

Instant now() { return Clock::now(); }

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

struct Command {
  enum class Kind : uint8_t { submit, cancel, inspect, limits, drain, stop };
  Kind kind = Kind::stop;
  int sample = kAllSamples;  // cancel
  RequestId id = 0;
  Instant when{};  // submit, cancel: when it came; drain: its deadline
  GenerateRequest request;
  std::function<void(const Scheduler&)> look;  // inspect
  int max_queue = 0;                           // limits
  int64_t max_queued_tokens = 0;               // limits
};

// What the loop remembers of a request that still owes final events.
struct Live {
  Instant submitted;
  int samples_left = 0;
  int prompt_seen = 0;  // prompt tokens counted so far: computed or from the cache, once each
  bool scheduled = false;
};

// A request whose blocks are not all back in the pools.
struct Cancelled {
  Instant when;
  Scheduler::Release release;
};

// A plain value that one thread writes and any thread may read. Its words are each current, not one
// instant's.
template <class T>
class Snapshot {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  void store(const T& value) {
    std::array<uint64_t, kWords> words{};
    std::memcpy(words.data(), &value, sizeof(T));
    for (size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_relaxed);
  }
  T load() const {
    std::array<uint64_t, kWords> words;
    for (size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_relaxed);
    T value;
    std::memcpy(static_cast<void*>(&value), words.data(), sizeof(T));
    return value;
  }

 private:
  static constexpr size_t kWords = (sizeof(T) + 7) / 8;
  std::array<std::atomic<uint64_t>, kWords> words_{};
};

}  // namespace

struct Engine::Impl {
  Impl(std::unique_ptr<Scheduler> s, std::unique_ptr<ModelRunner> r, OutputSink& o, Metrics& m,
       int max_queue)
      : scheduler(std::move(s)),
        runner(std::move(r)),
        sink(o),
        metrics(m),
        told(m, scheduler->stats()),
        max_queue(max_queue),
        inbox(size_t(max_queue)) {
    events.reserve(1024);
    progress = now().time_since_epoch().count();
    publish();
    copies_wake = runner->on_copies_done([this] { inbox.poke(); });
  }
  ~Impl() { runner->on_copies_done({}); }  // the inbox goes before the runner

  void run();
  bool turn();
  void take_inbox();
  void apply(Command& c);
  void admit(Command& c);
  void cancel(const Command& c);
  void note_released();
  void cancel_everything();
  void refuse(RequestId id, int samples, FinishReason why, std::string_view reason = "");
  void deliver();
  void note_launch(const StepPlan& plan);
  void note_progress();
  void publish();
  void rest();

  // --- engine thread, and before start() and after the join its owner ---
  const std::unique_ptr<Scheduler> scheduler;
  const std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Recorder> recorder;  // null: nothing is recorded
  OutputSink& sink;
  Metrics& metrics;
  std::vector<Command> commands;
  std::vector<TokenEvent> events;
  absl::flat_hash_map<RequestId, Live> live;
  EngineMetrics told;  // what the scheduler counts, as metrics
  std::vector<Cancelled> cancelled;
  int in_flight = 0;
  uint64_t last_launched = 0;  // plan
  bool copies_wake = false;    // the runner says when copies have ended
  Instant drain_deadline = kNever;
  bool drain_asked = false;
  bool closing = false;  // everything is being cancelled: what still comes in is too
  bool stopping = false;

  // --- any thread ---
  std::atomic<int> max_queue;
  Queue<Command> inbox;
  std::atomic<bool> draining{false};
  std::atomic<bool> at_rest{false};
  std::atomic<int64_t> progress{0};  // steady clock
  Snapshot<Scheduler::Stats> snapshot;
  Snapshot<StepCost> cost;
  std::mutex drained_mutex;
  std::condition_variable drained_cv;
  bool drained = false;
  std::thread thread;
};

// One final event per sample for a request that the scheduler never had.
void Engine::Impl::refuse(RequestId id, int samples, FinishReason why, std::string_view reason) {
  for (int i = 0; i < samples; ++i) {
    TokenEvent e;
    e.request = id;
    e.sample = uint16_t(i);
    e.finish = why;
    if (!reason.empty()) e.add_details().refusal = reason;
    events.push_back(std::move(e));
  }
}

void Engine::Impl::admit(Command& c) {
  const int samples = c.request.num_samples;
  if (closing) return refuse(c.id, samples, FinishReason::cancelled);
  if (recorder) recorder->arrived(c.id, c.request, c.when);
  const absl::Status added = scheduler->add(c.id, std::move(c.request), now());
  if (added.ok()) {
    const bool fresh = live.try_emplace(c.id, Live{c.when, samples}).second;
    CHECK(fresh);  // the caller promised an id of its own
    return;
  }
  log_debug("request {} refused: {}", c.id, message_of(added));
  if (added.code() == absl::StatusCode::kResourceExhausted)
    refuse(c.id, samples, FinishReason::overloaded);
  else
    refuse(c.id, samples, FinishReason::error, message_of(added));
}

void Engine::Impl::cancel(const Command& c) {
  if (const auto release = scheduler->cancel(c.id, c.sample); release.has_value())
    cancelled.push_back({c.when, *release});
}

void Engine::Impl::note_released() {
  std::erase_if(cancelled, [&](const Cancelled& c) {
    if (!scheduler->released(c.release)) return false;
    metrics.cancel_to_free_seconds.Observe(to_seconds(now() - c.when));
    return true;
  });
}

void Engine::Impl::cancel_everything() {
  closing = true;
  for (const auto& [id, _] : live) scheduler->cancel(id);
}

void Engine::Impl::apply(Command& c) {
  switch (c.kind) {
    case Command::Kind::submit:
      return admit(c);
    case Command::Kind::cancel:
      return cancel(c);
    case Command::Kind::inspect:
      deliver();
      return c.look(*scheduler);
    case Command::Kind::limits:
      return scheduler->set_queue_limits(c.max_queue, c.max_queued_tokens);
    case Command::Kind::drain:
      drain_asked = true;
      drain_deadline = std::min(drain_deadline, c.when);
      return;
    case Command::Kind::stop:
      stopping = true;
      return cancel_everything();
  }
}

void Engine::Impl::take_inbox() {
  inbox.take(commands);
  for (Command& c : commands) apply(c);
  note_released();
  commands.clear();
  if (drain_asked && !closing && now() >= drain_deadline) cancel_everything();
}

void Engine::Impl::deliver() {
  if (events.empty()) return;
  if (recorder) recorder->observe(events);
  for (const TokenEvent& e : events) {
    if (e.finish == FinishReason::none) continue;
    if (e.known().trace) told.ended(*e.known().trace);
    const auto it = live.find(e.request);
    if (it != live.end() && --it->second.samples_left == 0) live.erase(it);
  }
  sink.deliver(events);
  events.clear();
}

// Only rows inside a prompt are looked up: a decode row has nothing new to tell.
void Engine::Impl::note_launch(const StepPlan& plan) {
  int64_t prompt_tokens = 0;
  for (const StepRow& row : plan.rows) {
    if (row.begin >= row.seq->num_prompt) continue;
    const auto it = live.find(row.seq->id);
    if (it == live.end()) continue;
    Live& l = it->second;
    if (!l.scheduled) metrics.queue_seconds.Observe(to_seconds(now() - l.submitted));
    l.scheduled = true;
    const int end = std::min(row.begin + row.count, row.seq->num_prompt);
    if (end > l.prompt_seen) prompt_tokens += end - std::exchange(l.prompt_seen, end);
  }
  if (prompt_tokens > 0) metrics.prompt_tokens.Increment(double(prompt_tokens));
  told.launched(plan);
}

void Engine::Impl::note_progress() {
  progress.store(now().time_since_epoch().count(), std::memory_order_relaxed);
  metrics.last_step_time.Set(unix_seconds());
}

void Engine::Impl::publish() {
  const Scheduler::Stats s = scheduler->stats();
  told.publish(s, scheduler->cost_model(), runner->copies());
  for (int t = 0; t < scheduler->num_tenants(); ++t)
    told.publish_tenant(uint32_t(t), scheduler->tenant(uint32_t(t)));
  snapshot.store(s);
  cost.store(scheduler->cost_model().cost());
}

// Fills the pipeline, hands out what is known, and finishes the oldest step. False when there was
// nothing to do.
//
// Launch first, talk later: with a runner that works beside this thread (depth > 1), step N's
// events go out after N+1 was launched, so that sockets are fed while the device computes. With
// depth 1 launch() *is* the step, and the same order would hold every token back by a whole step:
// there the events go out just before. Either way once a step, with what schedule() reported.
bool Engine::Impl::turn() {
  const bool launch_first = runner->depth() > 1;
  bool worked = false;
  while (in_flight < runner->depth()) {
    const StepPlan plan = scheduler->schedule(now(), runner->copies(), events);
    if (plan.empty()) break;
    note_launch(plan);
    if (!launch_first) deliver();
    if (recorder) recorder->launched(plan, scheduler->stats(), now());
    runner->launch(plan);
    last_launched = plan.id;
    ++in_flight;
    worked = true;
  }
  worked |= !events.empty();
  deliver();
  if (in_flight > 0) {
    runner->work_ahead();  // beside the device
    StepResult result = runner->collect();
    --in_flight;
    const Instant end = now();
    scheduler->commit(result, end, events);
    if (recorder) recorder->committed(result, runner->copies(), end);
    told.committed(result);
    runner->reuse(std::move(result));
    worked = true;
  }
  return worked;
}

// Nothing to compute: sleep in the inbox. No deadline can fall due here, for a deadline belongs to
// a live request, and with one the scheduler is not idle.
void Engine::Impl::rest() {
  if (!scheduler->idle()) {
    const bool copying = copies_wake && runner->copies().done < last_launched;
    return inbox.wait_until(now() + (copying ? kCopyPoll : kStallPoll));
  }
  if (drain_asked) {
    std::lock_guard lock(drained_mutex);
    drained = true;
    drained_cv.notify_all();
  }
  if (!stopping && runner->work_ahead()) return;  // piece by piece: whoever comes goes first
  at_rest = true;
  inbox.wait_until(now() + kHeartbeat);
  note_progress();  // a long step that comes next has not begun before
  at_rest = false;
}

void Engine::Impl::run() {
  for (;;) {
    take_inbox();
    const bool worked = turn();
    note_released();
    note_progress();
    publish();
    if (worked) continue;
    if (stopping && scheduler->idle()) return;
    rest();
    if (recorder) recorder->rested(now());
  }
}

Engine::Engine(std::unique_ptr<Scheduler> scheduler, std::unique_ptr<ModelRunner> runner,
               OutputSink& sink, Metrics& metrics, int max_queue)
    : impl_(std::make_unique<Impl>(std::move(scheduler), std::move(runner), sink, metrics,
                                   max_queue)) {}

Engine::~Engine() {
  Impl& e = *impl_;
  e.draining = true;
  Command stop;
  stop.kind = Command::Kind::stop;
  e.inbox.push(std::move(stop));
  if (e.thread.joinable()) {
    e.thread.join();
  } else {
    e.run();  // never started: what was submitted is still owed its end
  }
}

void Engine::record(std::unique_ptr<Recorder> recorder) { impl_->recorder = std::move(recorder); }

void Engine::start() {
  CHECK(!impl_->thread.joinable());
  impl_->thread = std::thread([this] {
    pthread_setname_np(pthread_self(), "engine");
    impl_->run();
  });
}

absl::Status Engine::submit(RequestId id, GenerateRequest request) {
  Impl& e = *impl_;
  CHECK(request.num_samples > 0);
  if (e.draining.load(std::memory_order_acquire))
    return unavailable("the server is shutting down and takes no new requests");
  Command c;
  c.kind = Command::Kind::submit;
  c.id = id;
  c.when = now();
  c.request = std::move(request);
  if (!e.inbox.try_push(std::move(c)))
    return resource_exhausted("the engine's inbox is full ({} requests)", e.max_queue.load());
  return absl::OkStatus();
}

void Engine::cancel(RequestId id, int sample) {
  Command c;
  c.kind = Command::Kind::cancel;
  c.id = id;
  c.when = now();
  c.sample = sample;
  impl_->inbox.push(std::move(c));
}

void Engine::drain(Instant deadline) {
  Impl& e = *impl_;
  CHECK(e.thread.joinable());
  e.draining.store(true, std::memory_order_release);
  Command c;
  c.kind = Command::Kind::drain;
  c.when = deadline;
  e.inbox.push(std::move(c));
  std::unique_lock lock(e.drained_mutex);
  e.drained_cv.wait(lock, [&] { return e.drained; });
}

absl::Status Engine::inspect(std::function<void(const Scheduler&)> look) {
  Command c;
  c.kind = Command::Kind::inspect;
  c.look = std::move(look);
  if (!impl_->inbox.try_push(std::move(c)))
    return resource_exhausted("the engine's inbox is full ({} requests)", impl_->max_queue.load());
  return absl::OkStatus();
}

void Engine::set_queue_limits(int max_queue, int64_t max_queued_tokens) {
  impl_->max_queue = max_queue;
  impl_->inbox.set_capacity(size_t(max_queue));
  Command c;
  c.kind = Command::Kind::limits;
  c.max_queue = max_queue;
  c.max_queued_tokens = max_queued_tokens;
  impl_->inbox.push(std::move(c));
}

StepCost Engine::step_cost() const { return impl_->cost.load(); }

Scheduler::Stats Engine::stats() const { return impl_->snapshot.load(); }

Nanos Engine::since_progress() const {
  const Impl& e = *impl_;
  const Nanos since = now().time_since_epoch() - Nanos(e.progress.load(std::memory_order_relaxed));
  return e.at_rest ? std::max(since - kHeartbeat, Nanos{0}) : since;
}

}  // namespace sluice
