#include "tests/simulation/network.h"

namespace stillpoint::simulation {
namespace {

constexpr Millis kBehind{60};  // what is overtaken arrives so much later

}  // namespace

Network::Network(Agenda& agenda, const Shape& shape, std::function<void(const SessionPtr&)> torn)
    : agenda_(agenda),
      torn_(std::move(torn)),
      lost_(shape.lost),
      doubled_(shape.doubled),
      overtaking_(shape.overtaking),
      ways_(shape.hosts) {
  for (std::uint32_t host = 0; host < shape.hosts; ++host) dice_.emplace_back(shape.seed, 1'000 + host);
}

Network::SessionPtr Network::open(std::size_t host) {
  auto session = std::make_shared<Session>();
  session->id = coordinator::SessionId{next_session_++};
  session->host = host;
  return session;
}

Time Network::next_arrival(Session& session, Way way) {
  auto& dice = dice_[session.host];
  const Millis delay = dice.per_mille(20) ? dice.between(20, 300) : dice.between(1, 6);
  return session.last[way] = std::max(session.last[way], agenda_.now() + delay);
}

void Network::transmit(const SessionPtr& session, Way way, std::function<void()> deliver) {
  auto& dice = dice_[session->host];
  if (dice.per_mille(lost_) && !std::exchange(session->torn[way], true))
    agenda_.in(dice.between(50, 2'000), [this, session] { torn_(session); });
  if (session->torn[way]) return;
  const Time at = next_arrival(*session, way);
  const auto guarded = [this, session, way, deliver = std::move(deliver)] {
    arrive(session->host, way, [session, way, deliver] {
      if (session->open[way]) deliver();
    });
  };
  if (dice.per_mille(doubled_)) agenda_.at(at + dice.between(0, 100), guarded);
  const bool first = !std::exchange(session->spoken[way], true);
  agenda_.at(!first && dice.per_mille(overtaking_) ? at + kBehind : at, guarded);
}

void Network::finish(const SessionPtr& session, Way way, std::function<void()> deliver) {
  agenda_.at(next_arrival(*session, way), [this, session, way, deliver = std::move(deliver)] {
    arrive(session->host, way, [session, way, deliver] {
      if (std::exchange(session->open[way], false)) deliver();
    });
  });
}

void Network::arrive(std::size_t host, Way way, std::function<void()> deliver) {
  auto& state = ways_[host][way];
  if (state.cut != 0 || !state.held_back.empty()) state.held_back.push_back(std::move(deliver));
  else deliver();
}

void Network::cut(std::size_t host, Way way, bool is_cut) {
  auto& state = ways_[host][way];
  state.cut += is_cut ? 1 : -1;
  if (state.cut != 0 || state.held_back.empty()) return;
  // TCP sends again what was not acknowledged, which takes a moment; what is sent meanwhile comes behind it.
  agenda_.in(Millis(200), [&state] {
    if (state.cut != 0) return;
    for (auto& deliver : std::exchange(state.held_back, {})) deliver();
  });
}

}  // namespace stillpoint::simulation
