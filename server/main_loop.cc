#include "server/main_loop.h"

#include <string.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/log.h"
#include "config/load.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kPoll(500);
constexpr milliseconds kDrainPoll(100);
constexpr seconds kDrainReport(10);
constexpr seconds kLastBytes(15);  // more than both servers take to stop

Instant now() { return std::chrono::steady_clock::now(); }

bool asks_to_end(int signal) { return signal == SIGTERM || signal == SIGINT; }

int64_t micros(Nanos time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

}  // namespace

Signals::Signals() {
  sigemptyset(&set_);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set_, signal);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int Signals::wait(milliseconds timeout) const {
  const timespec time{timeout.count() / 1000, (timeout.count() % 1000) * 1000000};
  return std::max(sigtimedwait(&set_, nullptr, &time), 0);
}

MainLoop::MainLoop(const Config& config, Reload reload, const Signals& signals,
                   ServiceManager& service, Frontend& frontend, HttpServer& http, GrpcServer& grpc,
                   Engine& engine)
    : config_(config),
      reload_(std::move(reload)),
      signals_(signals),
      service_(service),
      frontend_(frontend),
      http_(http),
      grpc_(grpc),
      engine_(engine) {}

void MainLoop::run() {
  milliseconds poll = kPoll;
  if (const Nanos interval = service_.watchdog_interval(); interval > Nanos{0})
    poll =
        std::clamp(std::chrono::duration_cast<milliseconds>(interval / 2), milliseconds(1), poll);
  service_.tell("READY=1");
  while (true) {
    look();
    const int signal = signals_.wait(poll);
    if (signal == SIGHUP) reload();
    if (asks_to_end(signal)) return drain(signal);
  }
}

void MainLoop::look() {
  const Readiness readiness = frontend_.readiness();
  if (readiness.ready != serving_) {
    serving_ = readiness.ready;
    grpc_.set_serving(serving_);
    if (!serving_) log_error("not ready: {}", readiness.reason);
    service_.tell(serving_ ? fmt::format("STATUS=serving {}", frontend_.model().name)
                           : fmt::format("STATUS=not ready: {}", readiness.reason));
  }
  if (!frontend_.stalled()) service_.feed_watchdog(now());
}

// All or nothing: a file with one bad line changes nothing.
void MainLoop::reload() {
  service_.tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", micros(now().time_since_epoch())));
  const absl::StatusOr<Config> fresh = reload_();
  if (!fresh.ok()) {
    log_error("SIGHUP: everything stays as it was: {}", message_of(fresh.status()));
  } else {
    set_log_level("info");  // who asks is told, whatever the level was and will be
    const std::vector<KnobChange> changes = take_live_knobs(config_, *fresh);
    for (const KnobChange& c : changes) {
      if (c.live)
        log_info("SIGHUP: {}: '{}' -> '{}'", c.name, c.from, c.to);
      else
        log_warn("SIGHUP: {}: '{}' -> '{}' takes a restart", c.name, c.from, c.to);
    }
    if (changes.empty()) log_info("SIGHUP: no setting has changed");
    frontend_.set_limits(config_);
    set_log_level(config_.log.level);
  }
  service_.tell("READY=1");
}

// Balancers look at readiness now and then. Until they have noticed, they go on sending work, and
// that is served as ever. A second signal ends the wait.
void MainLoop::await_balancers() const {
  const Instant until = now() + seconds(config_.server.drain_delay_seconds);
  while (now() < until && !asks_to_end(signals_.wait(kDrainPoll))) {
  }
}

void MainLoop::drain(int signal) {
  const bool at_once = signal == SIGINT;  // somebody sits at a keyboard
  const seconds delay(at_once ? 0 : config_.server.drain_delay_seconds);
  const seconds limit(config_.server.drain_seconds);
  log_info(
      "{}: draining; not ready as of now, new work is refused in {} s, what runs then has {} s",
      strsignal(signal), delay.count(), limit.count());
  service_.tell(fmt::format("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}",
                            micros(delay + limit + kLastBytes)));
  http_.announce_drain();
  grpc_.announce_drain();
  if (!at_once) await_balancers();
  // gRPC's port closes before the front end, which HTTP's drain tells, begins to refuse: who
  // connects for every call, as NGINX does, must not find an open port where all are refused.
  grpc_.begin_drain();
  http_.begin_drain();
  std::jthread impatient([&](std::stop_token stop) {
    Instant report = now() + kDrainReport;
    while (!stop.stop_requested()) {
      if (asks_to_end(signals_.wait(kDrainPoll))) {
        log_warn("second signal: ending the drain now");
        engine_.drain(now());
        return;
      }
      if (now() < report) continue;
      report += kDrainReport;
      const Scheduler::Stats stats = engine_.stats();
      log_info("draining: {} requests run, {} wait", stats.running, stats.waiting);
    }
  });
  engine_.drain(now() + limit);
}

}  // namespace sluice
