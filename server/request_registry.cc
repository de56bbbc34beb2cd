#include "server/request_registry.h"

#include <algorithm>
#include <array>
#include <utility>

namespace sluice {
namespace {

std::array<std::string, 3> spellings(const std::string& id) {
  return {id, kCompletionPrefix + id, kChatPrefix + id};
}

}  // namespace

void RequestRegistry::add(const std::string& id, int shard, const std::vector<RequestId>& ids,
                          const std::vector<GenerateRequest>& requests) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < ids.size(); ++i) {
    Live live{ids[i], shard, ids.front(), {id, static_cast<int>(i), false, {}}};
    live.view.info.id = ids[i];
    live.view.info.priority = requests[i].priority;
    live.view.info.tenant = requests[i].tenant;
    live.view.info.num_samples = requests[i].num_samples;
    live_.emplace(ids[i], std::move(live));
    by_id_.emplace(id, ids[i]);
  }
}

void RequestRegistry::erase(std::unordered_map<RequestId, Live>::iterator it) {
  const auto [begin, end] = by_id_.equal_range(it->second.view.id);
  by_id_.erase(std::find_if(begin, end, [&](const auto& e) { return e.second == it->first; }));
  live_.erase(it);
}

void RequestRegistry::forget(const std::vector<RequestId>& ids) {
  std::lock_guard lock(mutex_);
  for (const RequestId id : ids)
    if (const auto it = live_.find(id); it != live_.end()) erase(it);
}

void RequestRegistry::end(RequestId id, const std::shared_ptr<const RequestTrace>& trace) {
  std::lock_guard lock(mutex_);
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  if (trace) {
    if (ended_.size() >= kMaxEnded) ended_.pop_front();
    RequestView& view = ended_.emplace_back(std::move(it->second.view));
    it->second.view.id = view.id;  // erase() looks for it
    view.ended = true;
    view.info.age = trace->ended - trace->arrived;
    view.info.trace = *trace;
  }
  erase(it);
}

std::vector<RequestRegistry::Live> RequestRegistry::live(const std::string& id) const {
  std::lock_guard lock(mutex_);
  std::vector<Live> out;
  for (const std::string& spelling : spellings(id)) {
    const auto [begin, end] = by_id_.equal_range(spelling);
    for (auto it = begin; it != end; ++it) out.push_back(live_.at(it->second));
  }
  return out;
}

std::vector<RequestView> RequestRegistry::ended(const std::string& id) const {
  const auto names = spellings(id);
  std::lock_guard lock(mutex_);
  std::vector<RequestView> out;
  for (const RequestView& view : ended_)
    if (std::find(names.begin(), names.end(), view.id) != names.end()) out.push_back(view);
  return out;
}

std::vector<RequestView> RequestRegistry::name(std::vector<RequestInfo> infos) const {
  std::lock_guard lock(mutex_);
  std::vector<RequestView> out;
  for (RequestInfo& info : infos) {
    const auto it = live_.find(info.id);
    if (it == live_.end()) continue;
    out.push_back(it->second.view);
    out.back().info = std::move(info);
  }
  return out;
}

}  // namespace sluice
