//! Images made from wharf's own program, with no network: `hello-world`, `pause`, `wharf/welcome`.

use wharf_spec::reference::Reference;

use crate::{Image, ImageStore, StoreError};

pub(crate) fn knows(_name: &Reference) -> bool {
    false
}

pub(crate) fn provide(_store: &ImageStore, name: &Reference) -> Result<Image, StoreError> {
    Err(StoreError::NoSuchImage(name.familiar()))
}
