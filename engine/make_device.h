#pragma once

#include <memory>

#include "base/status.h"
#include "config/config.h"
#include "kernels/device.h"

namespace sluice {

// The device that `device.kind` names; auto takes a GPU where there is one, and logs why not where
// there is none. Refuses with one line what this build or this machine does not have.
absl::StatusOr<std::unique_ptr<Device>> make_device(const Config&);

}  // namespace sluice
