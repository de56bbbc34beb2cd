#pragma once

#include <string>
#include <vector>

#include "server/request_registry.h"

// The JSON of GET /v1/requests and GET /v1/requests/{id}/trace.
namespace sluice {

// Names that both protocols use.
const char* name_of(RequestInfo::State);
// "ended", or the scheduler's state.
const char* state_of(const RequestView&);

std::string list_json(const std::vector<RequestView>&);
// At least one, all of one id.
std::string trace_json(const std::vector<RequestView>&);

}  // namespace sluice
