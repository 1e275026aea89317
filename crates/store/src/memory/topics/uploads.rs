//! Uploads in parts of stages.

use vfs_sync_core::id::StagingId;
use vfs_sync_core::server::stage::UploadRow;

use crate::error::Result;
use crate::memory::transaction::MemoryTransaction;
use crate::topics::Uploads;

impl Uploads for MemoryTransaction<'_> {
    async fn upload(&mut self, staging_id: &StagingId) -> Result<Option<UploadRow>> {
        Ok(self.state.uploads.get(staging_id).cloned())
    }

    async fn write_upload(&mut self, staging_id: &StagingId, upload: &UploadRow) -> Result<()> {
        self.state.uploads.put(staging_id.clone(), upload.clone());
        Ok(())
    }

    async fn delete_upload(&mut self, staging_id: &StagingId) -> Result<()> {
        self.state.uploads.remove(staging_id);
        self.delete_parts(staging_id).await
    }

    async fn upload_parts(&mut self, staging_id: &StagingId) -> Result<Vec<String>> {
        Ok(self.state.parts.group(staging_id).values().cloned().collect())
    }

    async fn add_parts(
        &mut self,
        staging_id: &StagingId,
        from: u32,
        tags: &[String],
    ) -> Result<()> {
        for (part, tag) in (from..).zip(tags) {
            self.state.parts.put(staging_id, part, tag.clone());
        }
        Ok(())
    }

    async fn delete_parts(&mut self, staging_id: &StagingId) -> Result<()> {
        self.state.parts.remove_group(staging_id);
        Ok(())
    }

    async fn upload_handles(&mut self) -> Result<Vec<String>> {
        let uploads = self.state.uploads.rows().values();
        Ok(uploads.filter_map(|upload| upload.handle.clone()).collect())
    }
}
