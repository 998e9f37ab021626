//! Indexes, opens and reads small datasets, good and bad ones. Trials on real data exist only if
//! `FOREBAY_DATA` is set.

#![expect(clippy::unwrap_used, reason = "a test")]

mod bad;
mod damage;
mod equal;
mod folder;
mod format;
mod layouts;
mod make;
mod mixed;
mod odd;
mod parquet;
mod real;
mod tars;

use libtest_mimic::{Arguments, Trial};

/// A trial for each function, with its name.
macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Trial::test(
            concat!(stringify!($module), "::", stringify!($name)),
            || { $module::$name(); Ok(()) },
        )),*]
    };
}

fn main() {
    let mut trials = trials![
        folder::order_and_labels_are_those_of_torchvision,
        folder::a_record_that_does_not_decode_is_bad_and_replaced,
        folder::equal_copies_have_equal_digests_for_any_number_of_threads,
        folder::linked_folders_are_followed_and_loops_are_refused,
        folder::links_that_multiply_paths_are_refused_and_deep_folders_are_not,
        folder::the_index_can_be_in_another_folder,
        folder::a_failed_build_leaves_the_previous_index,
        format::the_digest_and_index_of_a_folder_never_change,
        format::the_digest_and_index_of_tars_never_change,
        format::the_digest_and_index_of_parquet_files_never_change,
        tars::labels_come_from_cls_or_json,
        tars::a_folder_and_a_pattern_name_the_same_dataset,
        tars::patterns_may_be_in_folders,
        tars::class_names_are_the_lines_of_classes_txt,
        tars::malformed_labels_are_refused_with_their_sample,
        tars::two_samples_of_one_key_are_refused_because_their_labels_could_be_exchanged,
        tars::members_that_are_not_samples_are_skipped_and_counted,
        tars::a_dataset_without_samples_says_what_was_skipped,
        tars::class_folders_may_have_their_tars_beside_them,
        tars::tars_with_other_folders_of_images_beside_them_are_the_dataset,
        tars::shards_that_are_compressed_are_not_left_out_silently,
        tars::a_folder_of_tars_may_have_folders_without_images,
        tars::a_truncated_tar_is_refused,
        tars::a_compressed_tar_is_refused_with_advice,
        tars::tars_of_gnu_tar_are_read,
        tars::an_image_that_is_stored_sparse_is_skipped,
        odd::pipes_and_devices_are_skipped_and_never_read,
        odd::a_tar_or_an_index_that_is_a_pipe_is_refused,
        odd::a_huge_file_is_skipped_and_never_read,
        odd::links_to_nothing_are_skipped_and_named,
        odd::more_skipped_samples_than_a_share_refuse_a_dataset,
        odd::a_record_that_became_a_pipe_is_refused,
        odd::names_that_are_not_utf8_matter_only_for_images,
        bad::paths_that_are_not_datasets_are_refused,
        bad::classes_without_images_are_refused_as_by_torchvision,
        bad::a_dataset_without_good_records_is_refused,
        bad::a_missing_or_damaged_index_is_refused_with_advice,
        bad::a_changed_file_is_detected,
        bad::a_changed_shard_is_detected,
        bad::a_shard_that_is_truncated_while_open_loses_only_its_end,
        bad::a_shard_that_was_replaced_while_open_is_read_by_its_path,
        bad::shards_beyond_the_limit_of_open_files_are_read,
        damage::a_flipped_byte_of_an_index_never_changes_a_pixel,
        damage::damaged_entry_points_cost_time_and_nothing_else,
    ];
    trials.extend(other_layouts());
    trials.extend(mixes());
    if let Some(data) = forebay_tests::data() {
        trials.extend(real::trials(&data));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Of layouts other than `ImageFolder` and `WebDataset`.
fn other_layouts() -> Vec<Trial> {
    trials![
        layouts::the_first_label_of_tfrecords_depends_on_their_writer_and_is_told,
        layouts::labels_of_another_field_of_tfrecords_begin_at_0_and_have_no_names_of_others,
        layouts::a_dataset_of_tensorflow_may_have_classes_at_two_levels,
        layouts::flags_about_other_layouts_are_refused_by_name,
        layouts::names_of_classes_come_from_the_synsets_of_tfrecords,
        layouts::a_damaged_tfrecord_is_bad_and_a_damaged_length_ends_its_file,
        layouts::a_flipped_bit_of_a_tfrecord_costs_its_record_and_nothing_of_others,
        layouts::tfrecords_of_other_forms_are_refused_with_advice,
        layouts::one_of_several_splits_must_be_selected,
        layouts::tars_of_several_splits_are_not_one_dataset_unless_a_pattern_names_them,
        layouts::shards_of_a_split_and_of_none_are_not_mixed_silently,
        layouts::validation_images_of_imagenet_in_a_webdataset_have_the_labels_beside_them,
        layouts::tars_of_ilsvrc_are_refused_without_what_belongs_to_them,
        layouts::validation_images_of_kaggle_without_a_label_are_skipped,
        layouts::labels_of_webdataset_may_be_any_key_of_json,
        layouts::shards_of_mds_that_cannot_be_read_in_place_are_refused_by_name,
        layouts::a_manifest_says_which_line_is_wrong,
        layouts::a_manifest_of_two_columns_has_a_header_if_a_flag_names_one,
        layouts::batches_of_cifar_that_are_damaged_are_refused,
        layouts::versions_of_cifar_in_one_folder_are_refused_by_name,
        layouts::classes_and_records_can_be_selected,
        layouts::classes_of_one_name_cannot_be_selected,
        layouts::copies_and_images_with_several_labels_are_suspicious,
        equal::the_same_images_in_every_layout_have_the_same_labels_content_and_pixels,
        equal::batches_of_cifar_have_the_pixels_of_png_files,
        parquet::files_of_pyarrow_and_datasets_have_their_images_labels_and_names,
        parquet::images_of_a_parquet_file_are_served_as_those_of_an_image_folder,
        parquet::rows_without_an_image_or_a_label_are_skipped_and_counted,
        parquet::columns_of_other_names_are_given_by_flags,
        parquet::an_offset_of_labels_that_are_text_is_refused,
        parquet::a_folder_has_the_files_of_one_split,
        parquet::the_folders_of_the_hub_and_its_cache_are_datasets,
        parquet::files_that_cannot_be_read_are_refused_with_the_reason,
        parquet::a_truncated_file_is_refused,
        parquet::a_flipped_byte_never_changes_an_image,
        parquet::a_negative_label_is_none_and_a_label_without_a_class_is_refused,
        parquet::records_of_a_parquet_file_can_be_selected,
        parquet::class_names_are_those_of_the_file_or_of_classes_txt,
        parquet::labels_of_text_and_of_numbers_are_not_one_dataset,
        parquet::a_changed_page_is_detected,
        parquet::a_parquet_file_of_paths_is_a_manifest,
        parquet::a_parquet_manifest_may_have_labels_of_text_and_nulls_are_skipped,
        parquet::columns_of_a_parquet_manifest_are_given_by_flags,
        parquet::a_parquet_manifest_is_a_dataset_by_its_own_path_only,
        layouts::compressed_shards_of_mds_are_read_in_place,
        layouts::images_of_one_split_that_are_in_another_are_suspicious,
        layouts::labels_of_two_kinds_are_suspicious,
        layouts::labels_of_two_kinds_of_members_are_told,
    ]
}

/// Of several datasets as one.
fn mixes() -> Vec<Trial> {
    trials![
        mixed::its_records_are_those_of_its_parts_one_after_the_other,
        mixed::an_epoch_has_records_of_each_part_as_often_as_its_weight_says,
        mixed::a_mix_of_one_dataset_is_that_dataset,
        mixed::the_digest_depends_on_parts_weights_and_order,
        mixed::what_does_not_go_together_is_refused_with_the_reason,
        mixed::weights_of_datasets_and_of_classes_are_not_combined,
    ]
}
