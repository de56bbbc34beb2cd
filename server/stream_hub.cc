#include "server/stream_hub.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace sluice {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

}  // namespace

struct StreamHub::Shard {
  struct Route {
    TokenStream* stream = nullptr;  // null: the client has left, the last events are yet to come
    RequestId stream_id = 0;
    int prompt = 0;
    int samples_left = 0;  // final events still owed
  };
  struct Open {
    std::unique_ptr<TokenStream> stream;
    std::vector<RequestId> requests;
    bool touched = false;
    bool failed = false;
  };

  // Shared with the engine's thread and whoever posts.
  std::mutex mutex;
  std::vector<TokenEvent> events;
  std::vector<std::function<void()>> tasks;
  std::function<void()> wake;
  bool woken = false;

  // Owned by the shard's thread.
  uint64_t next = 1;
  std::unordered_map<RequestId, Route> routes;
  std::unordered_map<RequestId, Open> open;
  std::vector<TokenEvent> taken;  // recycled
  std::vector<RequestId> touched;
  bool pumping = false;

  std::atomic<int> num_open{0};

  // With the mutex held: what was pushed will be seen.
  void wake_up() {
    if (wake && !std::exchange(woken, true)) wake();
  }
  void release(RequestId stream, Engine& engine);
  void route(TokenEvent& event, Engine& engine, Instant at, const OnEnd& on_end);
  void finish(RequestId stream, Engine& engine, Instant at);
};

StreamHub::StreamHub(int num_shards) {
  CHECK(num_shards > 0);
  for (int i = 0; i < num_shards; ++i) shards_.push_back(std::make_unique<Shard>());
}

StreamHub::~StreamHub() = default;

int StreamHub::num_shards() const { return static_cast<int>(shards_.size()); }

void StreamHub::set_wake(int shard, std::function<void()> wake) {
  Shard& s = *shards_.at(shard);
  std::lock_guard lock(s.mutex);
  s.wake = std::move(wake);
  s.woken = false;
  if (!s.events.empty() || !s.tasks.empty()) s.wake_up();
}

void StreamHub::deliver(std::span<TokenEvent> events) {
  // Few shards, many events: a pass per shard needs one lock each and no sorting.
  const size_t n = shards_.size();
  for (size_t shard = 0; shard < n; ++shard) {
    Shard& s = *shards_[shard];
    std::unique_lock<std::mutex> lock;
    for (TokenEvent& event : events) {
      if (event.request % n != shard) continue;
      if (!lock.owns_lock()) lock = std::unique_lock(s.mutex);
      s.events.push_back(std::move(event));
    }
    if (lock.owns_lock()) s.wake_up();
  }
}

void StreamHub::post(int shard, std::function<void()> task) {
  Shard& s = *shards_.at(shard);
  std::lock_guard lock(s.mutex);
  s.tasks.push_back(std::move(task));
  s.wake_up();
}

std::vector<RequestId> StreamHub::open(int shard, std::unique_ptr<TokenStream> stream,
                                       int num_prompts, int num_samples) {
  Shard& s = *shards_.at(shard);
  std::vector<RequestId> ids;
  for (int p = 0; p < num_prompts; ++p) {
    const RequestId id = s.next++ * shards_.size() + static_cast<RequestId>(shard);
    ids.push_back(id);
    s.routes[id] = {stream.get(), ids.front(), p, num_samples};
  }
  s.open[ids.front()] = {std::move(stream), ids};
  s.num_open.fetch_add(1, std::memory_order_relaxed);
  return ids;
}

void StreamHub::close(int shard, RequestId stream, Engine& engine, int num_submitted) {
  Shard& s = *shards_.at(shard);
  const auto it = s.open.find(stream);
  if (it == s.open.end()) return;
  for (size_t i = num_submitted; i < it->second.requests.size(); ++i)
    s.routes.erase(it->second.requests[i]);
  s.release(stream, engine);
}

void StreamHub::fail(int shard, RequestId stream, const ApiError& error, const char* reason,
                     Engine& engine) {
  Shard& s = *shards_.at(shard);
  const auto it = s.open.find(stream);
  if (it == s.open.end()) return;
  it->second.stream->fail(error, reason);
  it->second.stream->flush(now());
  s.release(stream, engine);
}

// Forgets the stream; requests that live on in the engine are cancelled and keep a bare route.
void StreamHub::Shard::release(RequestId stream, Engine& engine) {
  const auto it = open.find(stream);
  for (const RequestId id : it->second.requests) {
    const auto route = routes.find(id);
    if (route == routes.end()) continue;
    route->second.stream = nullptr;
    engine.cancel(id);
  }
  // Moved out first: destroying a writer may call back into the hub.
  const Open gone = std::move(it->second);
  open.erase(it);
  num_open.fetch_sub(1, std::memory_order_relaxed);
}

void StreamHub::Shard::route(TokenEvent& event, Engine& engine, Instant at, const OnEnd& on_end) {
  const auto it = routes.find(event.request);
  if (it == routes.end()) return;  // never submitted
  const Route r = it->second;
  const bool final = event.finish != FinishReason::none;
  const int sample = event.sample;
  if (final && --it->second.samples_left == 0) {
    routes.erase(it);
    if (on_end) on_end(event.request, event.known().trace);
  }
  if (r.stream == nullptr) return;
  Open& entry = open.at(r.stream_id);
  if (entry.failed) return;
  const TokenStream::Next next = r.stream->push(r.prompt, event, at);
  if (next == TokenStream::Next::cancel_sample) engine.cancel(event.request, sample);
  if (next == TokenStream::Next::failed) entry.failed = true;
  if (!std::exchange(entry.touched, true)) touched.push_back(r.stream_id);
}

void StreamHub::Shard::finish(RequestId stream, Engine& engine, Instant at) {
  const auto it = open.find(stream);
  if (it == open.end()) return;  // closed while another stream was flushed
  Open& entry = it->second;
  entry.touched = false;
  const bool alive = entry.stream->flush(at);
  if (!alive || entry.failed || entry.stream->done()) release(stream, engine);
}

void StreamHub::pump(int shard, Engine& engine) {
  Shard& s = *shards_.at(shard);
  CHECK(!std::exchange(s.pumping, true));
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(s.mutex);
    s.woken = false;
    s.events.swap(s.taken);
    s.tasks.swap(tasks);
  }
  const Instant at = now();
  for (TokenEvent& event : s.taken) s.route(event, engine, at, on_end_);
  s.taken.clear();
  for (const RequestId stream : s.touched) s.finish(stream, engine, at);
  s.touched.clear();
  for (const auto& task : tasks) task();
  s.pumping = false;
}

int StreamHub::num_open() const {
  int total = 0;
  for (const auto& s : shards_) total += s->num_open.load(std::memory_order_relaxed);
  return total;
}

}  // namespace sluice
