DROP TABLE IF EXISTS resumable_upload;
