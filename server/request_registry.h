#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "scheduler/request.h"

namespace sluice {

// One engine request as a client asks for it. A response has one for each of its prompts.
struct RequestView {
  std::string id;  // of the response
  int prompt = 0;  // which of its prompts
  bool ended = false;
  RequestInfo info;  // of an ended one: no state
};

// By the id that a client sees: the live engine requests, and the traces of those that ended last.
// Clients may choose ids, so several responses may go by one; it then names them all. Any thread;
// the scheduler's view of what is live is the engine's to give.
class RequestRegistry {
 public:
  static constexpr size_t kMaxEnded = 1024;

  struct Live {
    RequestId request = 0;
    int shard = 0;
    RequestId stream = 0;
    RequestView view;  // all but what the scheduler knows
  };

  // `requests`: as they will be submitted, one per prompt; ids[0] is the stream's.
  void add(const std::string& id, int shard, const std::vector<RequestId>& ids,
           const std::vector<GenerateRequest>& requests);
  void forget(const std::vector<RequestId>& ids);  // they were not submitted after all
  // The last event of a request has come. `trace` may be null: it never was in the scheduler.
  void end(RequestId, const std::shared_ptr<const RequestTrace>& trace);

  // `id`: as in the response, or what follows its prefix.
  std::vector<Live> live(const std::string& id) const;
  std::vector<RequestView> ended(const std::string& id) const;
  // Puts names to what the scheduler knows; what has none is left out.
  std::vector<RequestView> name(std::vector<RequestInfo> infos) const;

 private:
  void erase(std::unordered_map<RequestId, Live>::iterator);

  mutable std::mutex mutex_;
  std::unordered_map<RequestId, Live> live_;
  std::unordered_multimap<std::string, RequestId> by_id_;
  std::deque<RequestView> ended_;  // the latest last
};

// Of response ids, by kind.
inline constexpr const char* kCompletionPrefix = "cmpl-";
inline constexpr const char* kChatPrefix = "chatcmpl-";

}  // namespace sluice
