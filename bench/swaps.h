#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "kernels/device.h"
#include "kvcache/kv_store.h"

namespace sluice {

// The engine's copies of blocks between a device with memory of its own and the host, each way,
// beside as many bytes of pinned memory in one piece, which is their limit. `only`: whether a line
// of that name is wanted. Prints lines as those of the ops, and adds them to `lines`.
void bench_swaps(Device&, const KvShape&, double seconds,
                 const std::function<bool(const std::string&)>& only,
                 nlohmann::ordered_json& lines);

}  // namespace sluice
