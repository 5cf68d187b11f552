// Translation between the two links: which guests a coordinator's request is for, what each of them is asked, and
// what their replies add up to. Pure functions; any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "guest.pb.h"
#include "host.pb.h"
#include "node-daemon/core/types.h"

namespace stillpoint::node {

using GuestReplies = std::map<std::uint32_t, wire::GuestReply>;

// For the user and the log: "close", "capture", …
std::string request_name(wire::ToHost::BodyCase body);

// Two requests of a gang with equal keys are the same request, sent twice.
std::string request_key(const wire::ToHost& ask);

// How long guests may take for it.
milliseconds request_deadline(const wire::ToHost& ask);

// True for what is done by asking guests and nothing else.
bool is_relayed(const wire::ToHost& ask);

// Of the guests that this host has, the ones that the request is for. Empty: none of them.
std::vector<std::uint32_t> request_targets(const wire::ToHost& ask, const std::vector<std::uint32_t>& local);

// What one guest is asked, without id. Only for relayed requests.
wire::GuestRequest guest_request(const wire::ToHost& ask, std::uint32_t guest);

// What they replied, as one answer. Only for relayed requests.
wire::FromHost combined_answer(const wire::ToHost& ask, const GuestReplies& replies);

}  // namespace stillpoint::node
