#include <algorithm>
#include <utility>

#include "server/frontend.h"

// Looking at requests, and ending them, from outside. The engine's thread owns the scheduler, so a
// look is a round trip: to that thread and back to the asking shard. What it runs there holds no
// Frontend, which may be gone by then.
namespace sluice {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

ApiError not_found_error(const std::string& id) {
  return api_error(ErrorKind::request_not_found, "id",
                   "there is no request {}, or it ended long ago", id.substr(0, 200));
}

}  // namespace

ApiError no_answer_error() {
  return api_error(ErrorKind::overloaded, "", "the engine did not answer within {} seconds",
                   std::chrono::duration_cast<std::chrono::seconds>(kInspectLimit).count());
}

void Frontend::list_requests(int shard, RequestAnswer done) const {
  const auto status =
      engine_.inspect([hub = &hub_, registry = registry_, shard, done](const Scheduler& scheduler) {
        hub->post(shard, [registry, done, infos = scheduler.list(now())] {
          done(std::nullopt, registry->name(infos));
        });
      });
  if (!status.ok()) done(api_error_from(status), {});
}

void Frontend::request_trace(int shard, const std::string& id, RequestAnswer done) const {
  // What has ended by now, and what the scheduler said of the rest.
  const auto answer = [registry = registry_, id, done](std::vector<RequestView> views) {
    for (RequestView& view : registry->ended(id)) {
      const auto same = [&](const RequestView& v) { return v.info.id == view.info.id; };
      if (std::none_of(views.begin(), views.end(), same)) views.push_back(std::move(view));
    }
    std::stable_sort(views.begin(), views.end(),
                     [](const auto& a, const auto& b) { return a.prompt < b.prompt; });
    views.empty() ? done(not_found_error(id), {}) : done(std::nullopt, std::move(views));
  };
  const std::vector<RequestRegistry::Live> live = registry_->live(id);
  if (live.empty()) return answer({});
  const auto status =
      engine_.inspect([hub = &hub_, shard, live, answer](const Scheduler& scheduler) {
        std::vector<RequestView> views;
        for (const RequestRegistry::Live& l : live) {
          RequestView view = l.view;
          if (scheduler.find(l.request, now(), view.info)) views.push_back(std::move(view));
        }
        // By way of the request's own shard: what the scheduler no longer knows has its last event
        // waiting there, and is among the ended ones behind it.
        hub->post(live.front().shard, [hub, shard, answer, views] {
          hub->post(shard, [answer, views] { answer(views); });
        });
      });
  if (!status.ok()) done(api_error_from(status), {});
}

MaybeError Frontend::cancel_request(const std::string& id) {
  const std::vector<RequestRegistry::Live> live = registry_->live(id);
  if (live.empty()) return not_found_error(id);
  for (const RequestRegistry::Live& l : live) {
    if (l.request != l.stream) continue;  // the stream's other prompts end with it
    hub_.post(l.shard, [this, l] {
      const ApiError error =
          api_error(ErrorKind::cancelled, "", "the request {} was cancelled by DELETE", l.view.id);
      hub_.fail(l.shard, l.stream, error, "cancelled", engine_);
    });
  }
  return std::nullopt;
}

}  // namespace sluice
