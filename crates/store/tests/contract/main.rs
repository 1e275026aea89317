//! The contract of `MetadataStore`, run against every back end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod blobs;
mod bounds;
mod chunks;
mod credentials;
mod damage;
mod deletions;
mod departures;
mod devices;
mod examination;
mod feeds;
mod files;
mod frozen;
mod hosts;
mod members;
mod memory;
mod migration;
mod moves;
mod plans;
mod pushes;
mod reconcile;
mod retention;
mod scene;
mod sessions;
mod sharing;
mod trash;
mod users;
mod views;

use std::sync::Arc;

use scene::{Scene, at};
use vfs_sync_store::memory::MemoryStore;
use vfs_sync_store::sqlite::SqliteStore;
use vfs_sync_store::testing::new_postgres_database;

/// One test of each listed behaviour for each back end; with `durable`, for those whose database
/// outlives the store.
macro_rules! contract {
    (durable $($area:ident: $($behaviour:ident)*;)*) => {
        mod sqlite_file { $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("metadata.sqlite");
                let scene = super::Scene::at(path.to_str().unwrap().to_owned()).await;
                super::super::$area::$behaviour(scene).await;
            }
        )*)* }
        mod sqlite_snapshots { $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join(super::scene::ON_SNAPSHOTS);
                let scene = super::Scene::at(path.to_str().unwrap().to_owned()).await;
                super::super::$area::$behaviour(scene).await;
            }
        )*)* }
        mod postgres { $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs PostgreSQL"]
            async fn $behaviour() {
                let url = super::new_postgres_database().await.unwrap();
                super::super::$area::$behaviour(super::Scene::at(url).await).await;
            }
        )*)* }
    };
    ($($area:ident: $($behaviour:ident)*;)*) => {
        contract! { durable $($area: $($behaviour)*;)* }
        mod sqlite_memory { $($(
            #[tokio::test]
            async fn $behaviour() {
                let store = super::SqliteStore::open_in_memory(super::at(0)).unwrap();
                super::super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
        mod sqlite_alone { $($(
            #[tokio::test]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("metadata.sqlite");
                let store = super::SqliteStore::open_alone(&path, None, super::at(0)).unwrap();
                super::super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
        mod memory { $($(
            #[tokio::test]
            async fn $behaviour() {
                let store = super::MemoryStore::new(super::at(0));
                super::super::$area::$behaviour(super::Scene::new(super::Arc::new(store))).await;
            }
        )*)* }
    };
}

/// What holds for every store.
mod every {
    use super::*;
    contract! {
        trash:
            what_is_deleted_is_listed_and_comes_back_with_its_content
            who_deleted_may_restore_while_they_may_write
            a_purge_leaves_no_row_and_no_byte_that_counts
            what_is_deleted_goes_after_its_time_unless_it_came_back
            bytes_count_against_the_items_owner_from_the_attach_on
            a_large_folder_is_removed_in_small_steps;
        feeds:
            a_push_is_told_in_the_feed
            a_change_moves_its_entry_to_the_head
            pages_of_any_size_give_the_same_feed
            a_page_names_the_head_where_there_is_more
            a_feed_that_never_began_is_an_empty_page
            everybody_has_a_feed_of_their_own
            a_page_ends_early_at_4_mib
            a_cursor_that_cannot_be_served_is_refused
            a_new_epoch_goes_on_from_every_position_before_it
            a_position_that_an_epoch_never_had_is_refused_with_the_history
            a_new_epoch_amid_pushes_never_follows_a_later_one
            six_hundred_replicas_leave_room_for_ones_own;
        moves:
            heads_are_read_for_many_users_at_once
            a_commit_reports_the_heads_that_it_moved_and_whose_change_it_was
            what_is_rejected_or_repeated_moves_no_head;
        pushes:
            a_retry_after_a_lost_answer_is_already_applied
            a_late_link_under_a_container_of_the_same_push_is_beaten_by_the_last_move
            a_retry_finds_a_refused_operation_refused_and_those_after_it_applied
            another_operation_under_a_used_write_id_is_stale
            a_beaten_operation_gets_the_same_answer_again
            a_link_that_would_close_a_cycle_is_outdated
            a_move_takes_the_older_links_away
            an_item_that_comes_back_brings_what_hangs_around_it
            grants_and_their_removals_are_told
            a_malformed_operation_leaves_the_others_alone
            many_writers_of_one_feed_are_told_in_the_order_of_commit
            several_users_write_at_once
            one_id_created_by_two_users_at_once_belongs_to_one;
        bounds:
            an_item_has_so_many_grants_and_no_more
            an_item_was_granted_to_so_many_and_no_more
            what_a_realm_holds_is_counted_and_bounded
            the_bytes_of_registers_are_bounded
            a_user_has_so_many_replicas_and_no_more
            so_many_results_of_a_replica_are_kept_and_no_more
            a_push_of_many_consequences_is_applied_in_parts
            what_shows_too_much_is_refused_and_the_rest_goes_on
            a_grant_to_somebody_who_never_came_takes_no_rows_of_views
            what_was_granted_and_taken_before_the_first_call_is_never_seen
            who_granted_too_much_before_the_first_call_is_listed
            a_grant_and_a_first_call_at_once_miss_each_other_never;
        deletions:
            a_delete_of_what_another_changed_meanwhile_does_not_apply
            the_folders_of_what_stays_stay
            what_comes_back_in_a_folder_keeps_the_folder
            what_changes_a_deleted_item_brings_it_and_its_folders_back
            another_level_is_no_change_and_coming_into_sight_is
            a_content_counts_as_its_authors_change
            a_content_brings_its_item_back_with_its_folder;
        users:
            a_user_is_listed_with_what_the_user_has
            a_disabled_user_is_not_admitted_until_enabled
            limits_of_ones_own_take_the_place_of_the_servers;
        departures:
            a_deleted_user_goes_and_others_keep_what_is_theirs
            nothing_goes_before_its_time_and_a_deletion_can_be_called_off
            who_is_allowed_again_begins_with_nothing
            calls_that_are_under_way_leave_nothing_either
            somebody_in_the_folders_of_one_who_goes_keeps_nothing_up;
        devices:
            a_device_is_listed_with_what_it_said_and_how_far_it_is
            a_report_is_kept_once_and_the_last_ones_stay
            a_revoked_device_is_not_admitted_and_the_generation_says_so
            a_user_has_so_many_devices_and_the_one_longest_away_goes
            of_reports_and_calls_at_once_none_is_lost;
        credentials:
            a_secret_renews_until_the_next_is_used_and_then_ends_the_credential
            signing_in_again_ends_the_credential_before_and_no_other
            a_revoked_device_and_a_disabled_user_get_nothing
            of_renewals_at_once_none_loses_the_credential
            of_sign_ins_at_once_one_credential_is_good
            a_user_has_so_many_credentials_and_the_one_unused_longest_goes
            a_key_has_a_successor_in_time_and_goes_a_day_later;
        sessions:
            a_session_is_read_listed_and_ended
            an_item_is_looked_up_with_where_it_hangs;
        examination:
            nothing_is_found_where_all_is_well
            facts_and_the_oldest_rows_are_those_of_the_database;
        members:
            who_is_in_a_group_is_told
            who_was_ever_seen_is_known
            a_block_counts_until_it_ends_and_the_owner_cannot_tell
            a_user_is_in_so_many_groups_and_no_more;
        retention:
            a_removal_is_told_to_those_who_were_there
            a_replica_that_missed_pruned_removals_starts_again
            a_fresh_replica_is_not_told_old_removals
            a_fresh_replica_settles_while_old_removals_are_pruned
            an_old_operation_leaves_the_audit_trail_and_is_stale_then
            pruning_goes_on_in_small_steps;
        reconcile:
            the_state_never_goes_back
            nobody_can_reconcile_ahead_of_the_server
            states_of_other_users_and_clients_are_their_own
            beyond_512_entries_the_least_active_are_dropped
            reconciling_at_once_keeps_the_greatest
            made_up_clients_leave_so_many_states_and_no_more;
        blobs:
            a_staged_blob_becomes_an_items_content
            repeating_a_call_gives_the_same_answer
            an_id_that_is_taken_is_refused_whoever_asks
            an_upload_is_recorded_once
            what_is_over_takes_no_upload
            an_abandoned_blob_is_not_readable
            a_content_keeps_its_time_and_author
            a_newer_content_takes_the_older_ones_place
            content_that_changed_meanwhile_is_not_replaced
            an_attach_waits_for_its_checkpoint
            a_deleted_item_takes_its_content_along
            of_an_attach_and_an_abandon_at_once_one_wins
            of_an_attach_and_a_deletion_at_once_one_wins
            of_two_attaches_of_one_stage_at_once_one_wins
            of_two_contents_in_place_of_the_same_at_once_one_wins
            an_upload_is_its_last_writers_alone
            what_a_user_has_is_counted_and_bounded
            what_is_about_to_be_written_counts_first
            while_removals_are_held_no_object_is_removed
            a_blob_is_deleted_in_two_steps_and_looked_at_once_more
            a_blob_deleted_while_its_upload_is_cleared_away_keeps_bytes_to_remove
            staging_the_same_at_once_opens_one_stage;
    }
}

/// What holds for a database that outlives its store.
mod kept {
    use super::*;
    contract! { durable
        bounds:
            one_user_is_granted_so_many_items_of_an_owner_and_no_more;
        damage:
            a_restart_keeps_everything
            a_newer_schema_is_refused
            a_newer_schema_is_used_as_it_is_if_programs_of_this_one_work_on_it
            a_database_that_lost_a_table_is_refused
            a_malformed_item_fails_the_push_and_changes_nothing
            a_malformed_reconcile_state_is_named
            a_malformed_stage_is_named
            migrating_at_once_happens_once
            a_database_of_the_first_version_is_migrated
            two_stores_on_one_database_share_it;
        departures:
            no_column_of_any_table_names_a_deleted_user
            a_deletion_goes_on_after_a_crash_at_every_step
            two_processes_delete_one_user_together;
        examination:
            each_damage_is_found_and_repaired
            a_user_is_examined_alone
            malformed_rows_are_named_and_hide_nothing_else
            a_database_is_read_as_it_is;
        files:
            a_database_that_is_not_where_it_was_begins_an_epoch;
        plans:
            no_statement_reads_a_table_whole
            writers_across_realms_never_dead_lock;
        sharing:
            writers_who_share_end_as_if_one_had_come_after_the_other;
        trash:
            a_purge_leaves_a_tombstone_and_nothing_else
            a_purge_goes_on_after_every_restart;
        views:
            replicas_at_any_lag_see_what_the_rows_say;
    }
}
