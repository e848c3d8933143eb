//! What users notice of a service proxy besides that it connects: policies, changes under traffic, packets that are too
//! large, daemons that die. Real sockets over a network of nodes that run the real daemon on manifests.

#[path = "behaviour/change.rs"]
mod change;
#[path = "behaviour/daemon.rs"]
mod daemon;
#[path = "behaviour/packets.rs"]
mod packets;
#[path = "behaviour/policy.rs"]
mod policy;
#[path = "behaviour/scale.rs"]
mod scale;
#[path = "behaviour/subject.rs"]
mod subject;

use std::process::ExitCode;

use fairlead_tests::harness::lab::is_aside;
use fairlead_tests::harness::suite;

use subject::Subject;

fn main() -> ExitCode {
    if is_aside() {
        return ExitCode::SUCCESS;
    }
    suite::run(
        Subject::new,
        &[
            ("health_is_answered_as_by_kube_proxy", |subject| subject.afresh(policy::health)),
            ("affinity_lasts_as_long_as_it_should", |subject| subject.afresh(policy::affinity)),
            ("source_ranges_bind_load_balancers_and_node_ports", |subject| subject.afresh(policy::source_ranges)),
            ("local_policy_without_endpoint_here_is_silence", |subject| subject.afresh(policy::local_without_endpoint)),
            ("endpoints_that_end_serve_while_no_other_does", |subject| subject.afresh(policy::ending_endpoints)),
            ("weights_are_shares", |subject| subject.afresh(policy::weights)),
            ("node_ports_answer_on_loopback_where_asked_for", |subject| subject.afresh(policy::loopback)),
            ("external_ips_answer_where_asked_for", |subject| subject.afresh(policy::external_ips)),
            ("a_pod_reaches_itself", |subject| subject.afresh(policy::hairpin)),
            ("a_node_is_an_endpoint", |subject| subject.afresh(policy::host_endpoint)),
            ("pods_are_masqueraded_but_for_exclusions", |subject| subject.afresh(policy::masquerade)),
            ("one_endpoint_behind_two_addresses_at_once", |subject| subject.afresh(packets::two_addresses)),
            ("fragments_in_order", |subject| subject.afresh(packets::fragments)),
            ("fragments_in_the_wrong_order", |subject| subject.afresh(packets::fragments_out_of_order)),
            ("path_mtu_is_found", |subject| subject.afresh(packets::path_mtu)),
            ("endpoints_change_under_traffic", |subject| subject.afresh(change::under_traffic)),
            ("udp_leaves_a_removed_endpoint", |subject| subject.afresh(change::udp_moves)),
            ("tcp_is_reset_when_the_grace_ends", |subject| subject.afresh(change::reset_after_drain)),
            ("explain_agrees_with_what_happens", |subject| subject.afresh(policy::explain)),
            ("malformed_manifests_are_refused_by_name", |subject| subject.afresh(daemon::malformed)),
            ("an_address_and_an_uplink_come_later", |subject| subject.afresh(daemon::later)),
            ("pods_come_and_go", |subject| subject.afresh(daemon::pods)),
            ("redirect_past_the_stack", |subject| subject.afresh(daemon::redirect)),
            ("a_killed_daemon_loses_nothing", |subject| subject.afresh(daemon::killed)),
            ("fifty_thousand_flows_to_one_endpoint", |subject| subject.afresh(scale::flows)),
            ("ten_thousand_services_and_one_change", |subject| subject.afresh(scale::services)),
            ("down_leaves_nothing", |subject| subject.afresh(daemon::down)),
        ],
    )
}
