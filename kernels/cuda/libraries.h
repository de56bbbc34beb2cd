#pragma once

#include <string>
#include <vector>

namespace sluice::cuda {

// Where a library of NVIDIA's may be, best first: in `folder`, if there is one; as the loader finds
// it; and where packages of an active virtual environment or conda, of the system, and of pip put
// it.
std::vector<std::string> library_candidates(const std::string& name, const std::string& folder);

}  // namespace sluice::cuda
