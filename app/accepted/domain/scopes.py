"""What a key may be for (contract section 4, Auth). They are independent: `admin` does not include the others."""

SCOPES = ("jobs:read", "jobs:write", "jobs:work", "admin")
